"""The processes of a distributed run for tests: ``python ranks.py COUNT SCRIPT ARGUMENT...`` is COUNT processes that
run the script, each with its rank in the variables of a launcher.

Everything is imported once and the processes are forked off, which costs a third of what torchrun and as many fresh
starts do. That torchrun itself works is proved where the launchers are tested.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from forked import surroundings

from ldm_core.training import stages
from ldm_core.training.engine import world


def on_ranks(script: Path | str, *arguments: str, count: int = 2, paths: Sequence[str] = (), timeout: int = 240) -> str:
    """Run `script` on `count` processes of one thread each, with `paths` to import from; their output."""
    done = subprocess.run(
        [sys.executable, __file__, str(count), str(script), *arguments],
        env={**surroundings(), "PYTHONPATH": os.pathsep.join([*paths, *sys.path])},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def import_all() -> None:
    """What every process would do again, once: imports (AdamW brings a compiler along)."""
    world.import_deepspeed()
    assert stages.Stages is not None
    torch.optim.AdamW([torch.zeros(1)])
    gc.freeze()  # a process that looks through what it shares with the others copies it: a second each, at its end


def variables(rank: int, count: int, port: int) -> dict[str, str]:
    """What a launcher tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()}


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Fork; the first process that fails ends the others and this one."""
    count, script = int(sys.argv[1]), sys.argv[2]
    import_all()
    port, children = free_port(), set[int]()
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ.update(variables(rank, count, port))
            sys.argv = sys.argv[2:]
            runpy.run_path(script, run_name="__main__")
            return
        children.add(child)
    while children:
        ended, status = os.wait()
        children.discard(ended)
        if code := os.waitstatus_to_exitcode(status):
            for child in children:
                os.kill(child, signal.SIGKILL)
            sys.exit(f"a process ended with {code}")


if __name__ == "__main__":
    main()
