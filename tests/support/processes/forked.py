"""Commands for tests, each in a process of its own: forked off one that has imported what they all import.

A process of the tests has one such server, started with its first command: torch, DeepSpeed and the trainers are
imported once, and a command costs a fraction of a second in place of three to five of a fresh start.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import attrs
import unsynced

_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen
class Command:
    """A command line of Python's in the folder `cwd`, with `paths` to import from and more environment.

    `line` is ``-c CODE ARGUMENT...``, ``SCRIPT.py ARGUMENT...``, or ``MODULE ARGUMENT...`` as for ``python -m``.
    """

    line: Sequence[str]
    cwd: Path = attrs.field(converter=Path, factory=Path.cwd)
    paths: Sequence[str] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    threads: int = 1


@attrs.frozen
class Ended:
    """How a command ended; `code` is below 0 where a signal ended it."""

    code: int
    out: str
    err: str


class Process:
    """A command that runs, as a session of its own: a signal for the group ``pid`` reaches all that it starts."""

    def __init__(self, command: Command) -> None:
        known = {k: v for k, v in os.environ.items() if k not in _LAUNCHERS}
        cpu = {"OMP_NUM_THREADS": str(command.threads), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        self._code: int | None = None
        job = attrs.asdict(command) | {"environment": {**known, **cpu, **command.environment}}
        self.pid: int = _server().ask("start", {**job, "out": str(self._out), "err": str(self._err)})

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        if self._code is None:
            self._code = _server().ask("poll", self.pid)
        return self._code

    def errors(self) -> str:
        """What it has written to its standard error so far."""
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    def kill(self) -> None:
        """End it, with all that it has started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, seconds: float = 240) -> Ended:
        """Wait until it has ended; one that takes longer is killed, and fails the test."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"a process has not ended within {seconds:.0f} s: {self.errors()[-2000:]}")
            time.sleep(0.01)
        ended = Ended(code, *(file.read_text(errors="replace") for file in (self._out, self._err)))
        self._folder.cleanup()
        return ended


def forked(commands: Sequence[Command], *, imports: Sequence[str] = ()) -> list[Ended]:
    """Run the commands one after the other; the server imports `imports` too beforehand, and keeps them."""
    if imports:
        _server().ask("import", [*imports])
    return [Process(command).end(600) for command in commands]


class _Server:
    """The server, for the process that started it."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the server)
        environment = {k: v for k, v in os.environ.items() if k not in _LAUNCHERS}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        its.close()
        self._link, self._lines = ours, ours.makefile("rw")
        self._lock = threading.Lock()
        atexit.register(self._close, os.getpid())

    def ask(self, what: str, about: Any) -> Any:
        """The server's answer."""
        with self._lock:
            self._lines.write(json.dumps([what, about], default=str) + "\n")
            self._lines.flush()
            answer = self._lines.readline()
        if not answer:
            self._errors.seek(0)
            raise RuntimeError(f"the server of processes has ended: {self._errors.read().decode()[-3000:]}")
        return json.loads(answer)

    def _close(self, owner: int) -> None:
        if os.getpid() == owner:  # and not in a process that was forked off this one
            self._link.shutdown(socket.SHUT_RDWR)
            self._process.wait(60)


@cache
def _server() -> _Server:
    return _Server()


# ---------------------------------------------------------------------------------------------------- the server's end


def import_all() -> None:
    """What every process would do again, once: imports (AdamW brings a compiler along)."""
    import torch

    from ldm_core.training import stages
    from ldm_core.training.engine import world

    world.import_deepspeed()
    assert stages.Stages is not None
    torch.optim.AdamW([torch.zeros(1)])


_COMMANDS_IMPORT = ("ldm_core.cli", "ldm_core.sampling", "matplotlib.axes", "matplotlib.figure", "PIL.PngImagePlugin")


def _import_more() -> None:
    """Import what commands do beyond that: a third of a second for each that trains."""
    for name in _COMMANDS_IMPORT:
        importlib.import_module(name)
    for point in entry_points(group="ldm_core"):
        if point.dist is not None and point.dist.name.startswith("ldm-"):
            point.load()


def _leave(code: int) -> NoReturn:
    """End as the interpreter does, but for taking itself apart: that copies all that is shared with the server, and
    takes longer than many a command."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _job(link: socket.socket) -> dict[str, Any] | None:
    """Answer until the link ends; in a process that was forked off, its job."""
    running: set[int] = set()
    lines = link.makefile("rw")
    for line in lines:
        what, about = json.loads(line)
        answer: int | None = None
        if what == "import":
            for name in about:
                importlib.import_module(name)
            gc.freeze()
        elif what == "start":
            answer = os.fork()
            if answer == 0:
                os.close(link.detach())
                return dict(about)
            os.setpgid(answer, answer)  # here too: a signal for the group may come before the process has run
            running.add(answer)
        else:
            pid, status = os.waitpid(about, os.WNOHANG)
            if pid:
                running.discard(pid)
                answer = os.waitstatus_to_exitcode(status)
        lines.write(json.dumps(answer) + "\n")
        lines.flush()
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    return None


def _become(job: Mapping[str, Any]) -> None:
    """Be the command, in this process."""
    import torch

    os.setpgid(0, 0)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    torch.set_num_threads(job["threads"])
    sys.argv = line = job["line"]
    script = line[0].endswith(".py")
    sys.path[0] = str(Path(line[0]).parent) if script else job["cwd"]
    sys.path[1:1] = job["paths"]
    importlib.invalidate_caches()
    if line[0] == "-c":
        sys.argv = ["-c", *line[2:]]
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(line[1], "<string>", "exec"), vars(module))
    elif script:
        runpy.run_path(line[0], run_name="__main__")
    else:
        runpy.run_module(line[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Serve, or be a command, whose other errors than an exit are the interpreter's to tell."""
    link = socket.socket(fileno=int(sys.argv[1]))
    unsynced.begin()
    import_all()
    _import_more()
    gc.freeze()  # a process that looks through what it shares with the others copies it: a second each, at its end
    if (job := _job(link)) is not None:
        try:
            _become(job)
        except SystemExit as ended:
            if not isinstance(ended.code, int | None):
                raise
            _leave((ended.code or 0) & 0xFF)
        _leave(0)


if __name__ == "__main__":
    main()
