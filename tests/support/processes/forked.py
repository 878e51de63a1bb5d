"""Commands for tests, each in a process of its own: forked off one that has imported what they all import.

``python forked.py`` reads JSON from its input: ``{"imports": [MODULE, ...], "commands": [COMMAND, ...]}``, runs the
commands one after the other, and writes what became of each.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Command:
    """``python -m line[0] line[1] ...`` in the folder `cwd`, with `paths` to import from and more environment."""

    line: Sequence[str]
    cwd: Path = attrs.field(converter=Path)
    paths: Sequence[str] = ()
    environment: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Ended:
    """How a command ended; `code` is below 0 where a signal ended it."""

    code: int
    out: str
    err: str


def surroundings(threads: int = 1) -> dict[str, str]:
    """The environment of a process of its own: this one's without a launcher and a GPU, with so many threads."""
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    return {**known, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def forked(commands: Sequence[Command], *, imports: Sequence[str] = (), threads: int = 1) -> list[Ended]:
    """Run the commands without a GPU, each with so many threads; `imports` are imported beforehand."""
    given = {"imports": [*imports], "commands": [attrs.asdict(c) for c in commands]}
    done = subprocess.run(
        [sys.executable, __file__],
        env=surroundings(threads),
        input=json.dumps(given, default=str),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Ended(**each) for each in json.loads(done.stdout)]


def _become(line: Sequence[str], cwd: str, paths: Sequence[str], environment: dict[str, str]) -> None:
    """Be the command, in this process."""
    os.chdir(cwd)
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.path[1:1] = paths
    importlib.invalidate_caches()
    sys.argv = [*line]
    runpy.run_module(line[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Fork one process after the other."""
    given: dict[str, Any] = json.load(sys.stdin)
    for name in given["imports"]:
        importlib.import_module(name)
    gc.freeze()  # a process that looks through what it shares with the others copies it: a second each, at its end
    ended = []
    for command in given["commands"]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                _become(**command)
                return
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for file in (out, err):
                file.seek(0)
            ended.append({"code": code, "out": out.read().decode(), "err": err.read().decode()})
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
