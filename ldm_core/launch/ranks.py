"""Supervisor of the ranks on this machine: starts one process a rank, passes signals on, ends them together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO, TextIO

from ldm_core.launch import threads
from ldm_core.launch.environment import RANK_LOG, SUPERVISOR

INTERRUPTED = 130
NOTICE_SECONDS = 15.0
"""Time for the others to notice a lost rank by themselves: a closed link shows within about a second."""
END_SECONDS = 5.0
"""Time for them to end after a SIGTERM."""
_POLL_SECONDS = 0.05
_TAIL_LINES = 15
_FORWARDED = {
    name: getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
}  # some platforms lack some


class Ranks:
    """`count` processes of one command, as ranks of one run; their stderr goes to ``logs/rank-N.log``.

    The first one's is shown as well: on a terminal it writes there itself, elsewhere it is copied from its log. So it
    can still write if this process is gone. Its stdout is this process's; the others' goes to their logs.
    """

    def __init__(self, command: Sequence[str], count: int, logs: Path) -> None:
        self._command, self._count, self._logs = list(command), count, logs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._starts: list[int] = []  # where in its log this run of a rank begins
        self._pump: threading.Thread | None = None
        self._followed: BinaryIO | None = None  # the first rank's log, where it is shown from
        self._showing = threading.Lock()
        self._interrupts = 0

    def run(self) -> int:
        """Start them, wait for all, and return the exit code: 0; else that of the first rank that failed."""
        self._logs.mkdir(parents=True, exist_ok=True)
        environment = {**threads.environment(), **shared_variables(self._count)}
        with self._signals():
            try:
                for rank in range(self._count):
                    self._start(rank, environment)
                first = self._wait()
            finally:
                self._kill()
                if self._pump is not None:
                    self._pump.join()
                self._show()
                if self._followed is not None:
                    self._followed.close()
        return 0 if first is None else self._exit_code(first)

    def log(self, rank: int) -> Path:
        """The log of a rank."""
        return self._logs / f"rank-{rank}.log"

    def _start(self, rank: int, environment: Mapping[str, str]) -> None:
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), SUPERVISOR: str(os.getpid())}
        path = self.log(rank)
        with path.open("ab") as log:
            self._starts.append(log.tell())
            out: Any = log
            err: Any = log
            if rank == 0:
                out = None if _terminal(sys.stdout) else subprocess.PIPE
                if _terminal(sys.stderr):
                    err, own[RANK_LOG] = None, str(path)
                else:
                    self._followed = path.open("rb")
                    self._followed.seek(self._starts[0])
            # A signal that a process does not handle yet would end it: what is ignored here is inherited.
            usr1 = getattr(signal, "SIGUSR1", None) if _main_thread() else None
            before = signal.signal(usr1, signal.SIG_IGN) if usr1 is not None else None
            try:
                process = subprocess.Popen(
                    self._command, env=own, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
            finally:
                if usr1 is not None:
                    signal.signal(usr1, before)
        self._processes.append(process)
        if process.stdout is not None:
            self._pump = threading.Thread(target=self._copy, args=(process.stdout, sys.stdout), daemon=True)
            self._pump.start()

    def _wait(self) -> tuple[int, int] | None:
        """Wait until all have ended. Return the first failed rank and its code; end the others within a time limit."""
        running = dict(enumerate(self._processes))
        first: tuple[int, int] | None = None
        failed_at, terminated = 0.0, False
        while running:
            ended = {rank: code for rank, p in running.items() if (code := p.poll()) is not None}
            for rank in ended:
                del running[rank]
            failed = {rank: code for rank, code in ended.items() if code}
            if failed and first is None:  # of several at once, one that was killed: it did not fail because of another
                rank = min(failed, key=lambda r: failed[r] > 0)
                first, failed_at = (rank, failed[rank]), time.monotonic()
            if first is not None and first[1] != INTERRUPTED:
                waited = time.monotonic() - failed_at
                if waited > NOTICE_SECONDS and not terminated:
                    terminated = True
                    self._send(signal.SIGTERM)
                if waited > NOTICE_SECONDS + END_SECONDS:
                    self._kill()
            self._show()
            time.sleep(_POLL_SECONDS)
        return first

    def _show(self) -> None:
        """Print the first rank's new lines from its log."""
        with self._showing:
            if self._followed is not None and (data := self._followed.read()):
                with contextlib.suppress(BrokenPipeError, ValueError):
                    sys.stderr.write(data.decode(errors="replace"))
                    sys.stderr.flush()

    def _copy(self, source: IO[bytes], shown: TextIO) -> None:
        """Pass the first rank's stdout on as it comes, each line after its earlier progress."""
        with source:
            for line in iter(source.readline, b""):
                self._show()
                with contextlib.suppress(BrokenPipeError, ValueError):
                    shown.write(line.decode(errors="replace"))
                    shown.flush()

    def _exit_code(self, first: tuple[int, int]) -> int:
        """Name the failed rank, unless it has been named, and return its exit code."""
        rank, code = first
        if self._interrupts and code in (-signal.SIGINT, -signal.SIGTERM):
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        shown = self._processes[0].returncode  # what the first process had to say stands on the terminal already
        if code < 0 or not (rank == 0 or shown == code in (2, INTERRUPTED)):
            how = f"was ended by {_name(-code)}" if code < 0 else f"ended with exit code {code}"
            print(f"error: rank {rank} {how}; the others were ended too. Its log: {self.log(rank)}", file=sys.stderr)
            for line in self._tail(rank) if rank else []:
                print(f"       {line}", file=sys.stderr)
        return code if code > 0 else 128 - code

    def _tail(self, rank: int) -> list[str]:
        with self.log(rank).open("rb") as file:
            file.seek(self._starts[rank])
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _kill(self) -> None:
        """Kill the processes that still run, each with its children."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        previous: dict[int, Any] = {}
        if _main_thread():
            for number in _FORWARDED.values():
                if number is not None:
                    previous[number] = signal.signal(number, self._forward)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        # Each rank has a session of its own: the terminal's Ctrl-C reaches this process alone.
        if number == getattr(signal, "SIGHUP", None):
            number = signal.SIGTERM
        self._interrupts += number in (signal.SIGINT, signal.SIGTERM)
        self._send(signal.SIGKILL if self._interrupts > 2 else number)  # the second ends a rank at once, where it can


def shared_variables(count: int) -> dict[str, str]:
    """Variables common to all ranks of a run on this machine; those of the user stay."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **threads.shared(count),
    }
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:  # by itself, gloo takes the interface of the host's name, which need not resolve
        out["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", loopback[0])
    return out


def _terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and stream.fileno() in (1, 2)
    except (OSError, ValueError):
        return False


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
