"""The processes of a distributed run for tests, each with its rank in the variables of a launcher.

That torchrun itself works is proved where the launchers are tested.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
from forked import Command, Ended, Process


def on_ranks(script: Path | str, *arguments: str, count: int = 2, paths: Sequence[str] = (), timeout: int = 240) -> str:
    """Run `script` on `count` processes of one thread each, with `paths` to import from; what they print, by rank."""
    command = Command([str(script), *arguments], paths=[*paths, *sys.path])
    return "".join(each.out for each in ranked(command, count, timeout))


def ranked(command: Command, count: int, timeout: int = 240) -> list[Ended]:
    """Run the command as so many ranks; the first that fails ends the others and the test."""
    port = free_port()
    processes = [
        Process(attrs.evolve(command, environment={**command.environment, **variables(rank, count, port)}))
        for rank in range(count)
    ]
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and None in (codes := {p.poll() for p in processes}) and codes <= {None, 0}:
        time.sleep(0.01)
    ended = []
    for process in processes:
        process.kill()
        ended.append(process.end())
    assert not any(each.code for each in ended), "".join(each.err[-4000:] for each in ended)
    return ended


def variables(rank: int, count: int, port: int) -> dict[str, str]:
    """What a launcher tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()}


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
