"""Commands in forked processes under an audit hook: which files they opened, whom they called, how they ended."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_CALLS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind", "subprocess.Popen",
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "urllib.Request", "ftplib.connect",
    "smtplib.connect", "webbrowser.open", "pty.spawn",
)  # fmt: skip
_LISTS = (
    "os.listdir", "os.scandir", "glob.glob", "shutil.copyfile", "os.remove", "os.rename", "os.mkdir", "os.truncate",
)  # fmt: skip
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo", "/etc/mime.types")


class Job:
    """One command to be run: `work` returns its exit code; files below `allowed` may be opened."""

    def __init__(self, name: str, work: Callable[[], int], allowed: Sequence[Path], report: Path) -> None:
        self.name, self.work, self.report = name, work, report
        self.allowed = tuple(str(path) for path in allowed)


def installation() -> tuple[Path, ...]:
    """Where code lies that may be imported at any time."""
    import ldm_core

    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(ldm_core.__file__).parents[1])}
    places |= {path for path in sys.path if path and os.path.isdir(path)}
    return tuple(Path(os.path.realpath(place)) for place in places) + tuple(map(Path, places))


def _hook(job: Job, found: dict[str, list[str]]) -> Callable[[str, tuple[Any, ...]], None]:
    roots = (*job.allowed, *map(str, installation()))

    def inside(path: str) -> bool:
        real = os.path.abspath(path)
        return real.startswith(_SYSTEM) or any(real == root or real.startswith(root + "/") for root in roots)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" or event in _LISTS:
            for path in args[:2] if event in ("os.rename", "shutil.copyfile") else args[:1]:
                if isinstance(path, str | bytes | os.PathLike) and not inside(os.fsdecode(os.fspath(path))):
                    found["opened"].append(f"{event} {os.fsdecode(os.fspath(path))[:200]!r}")
        elif event in _CALLS:
            found["called"].append(f"{event} {args!r:.200}")

    return hook


def _child(job: Job, seconds: int, memory: int) -> None:
    """Run the command in this process, and write what was seen of it."""
    found: dict[str, list[str]] = {"opened": [], "called": []}
    out = os.open(str(job.report) + ".out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(out, stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", encoding="utf-8", errors="replace") for stream in (1, 2))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of work; a machine may be busy with something else
    signal.alarm(6 * seconds)  # of waiting, for a pipe that nobody writes to
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    listening = [True]
    hook = _hook(job, found)
    sys.addaudithook(lambda event, args: hook(event, args) if listening[0] else None)
    begun = time.process_time()
    try:
        code, fault = job.work(), ""
    except BaseException as error:
        code, fault = 1, f"{type(error).__name__}: {error}"[:300]
        traceback.print_exc()
    listening[0] = False
    sys.stdout.flush()
    sys.stderr.flush()
    took = time.process_time() - begun
    job.report.write_text(json.dumps({"code": code, "fault": fault, "seconds": took, **found}), encoding="utf-8")


def run_all(
    jobs: Iterator[Job], *, at_once: int = 2, seconds: int = 10, memory: int = 1 << 30
) -> Iterator[Mapping[str, Any]]:
    """Run each job in a process of its own, some at once; what was seen of each, in the order in which they end.

    ``outcome``: ``done``, ``refused`` (exit code 2), or what is wrong: ``hang``, ``traceback``, ``code N``, ``called``,
    ``opened``. A job has `seconds` of work, and `memory` bytes beyond what this process has.
    """
    running: dict[int, Job] = {}
    more = True
    while more or running:
        while more and len(running) < at_once:
            job = next(jobs, None)
            if job is None:
                more = False
                break
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                try:
                    _child(job, seconds, memory)
                finally:
                    os._exit(0)
            running[pid] = job
        if running:
            pid, status = os.wait()
            if pid in running:
                yield _seen(running.pop(pid), status)


def _seen(job: Job, status: int) -> Mapping[str, Any]:
    said = Path(f"{job.report}.out").read_text(encoding="utf-8", errors="replace")
    if not job.report.exists():
        killed = os.WIFSIGNALED(status)
        why = "hang" if killed and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF) else f"died {status}"
        return {"name": job.name, "outcome": why, "said": said, "seconds": 0.0}
    found = json.loads(job.report.read_text(encoding="utf-8"))
    if found["called"]:
        outcome = "called"
    elif found["opened"]:
        outcome = "opened"
    elif found["fault"] or "Traceback (most recent" in said:
        outcome = "traceback"
    else:
        outcome = {0: "done", 2: "refused"}.get(found["code"], f"code {found['code']}")
    return {"name": job.name, "outcome": outcome, "said": said, **found}
