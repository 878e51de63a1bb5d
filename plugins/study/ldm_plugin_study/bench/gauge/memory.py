"""The memory of a call at its peak, beyond the weights.

On a GPU torch's allocator counts it. On a CPU (Linux) each component has a process of its own, forked after the
parts are made: it runs the call once, hands freed memory back, resets the kernel's mark of the largest resident set,
and runs the call again; the rise of the mark is the result. So the weights, the libraries and the remains of a first
call are left out, and blocks freed by one component are not used by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from ldm_core.config.structure import structure, unstructure
from ldm_core.errors import ConfigError
from ldm_plugin_study.bench.gauge.cases import Case, cases
from ldm_plugin_study.bench.gauge.subject import Subject
from ldm_plugin_study.bench.result.choice import Choice

Peaks = Mapping[tuple[str, str], int | None]
"""Component and precision -> bytes; None for a call without an end."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET = "5"  # sets the mark of the largest resident set back (proc(5))


@attrs.frozen(kw_only=True)
class Job:
    """The work of the forking process: a complete recipe, the run with its weights, the measured components."""

    recipe: dict[str, Any]
    weights: str
    batch: int
    threads: int
    choice: Choice
    out: str


def can_fork() -> bool:
    """Tell if this system's memory can be measured by forks."""
    with contextlib.suppress(OSError):
        return "VmHWM:" in _STATUS.read_text() and os.access(_CLEAR, os.W_OK)
    return False


def on_gpu(every: Iterable[Case], device: torch.device) -> Peaks:
    """Measure by the allocator of `device`."""
    found = {}
    for case in every:
        case.call()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        case.call()
        torch.cuda.synchronize(device)
        found[case.component, case.precision] = torch.cuda.max_memory_allocated(device) - before
    return found


def apart(subject: Subject, choice: Choice, weights: str) -> Peaks:
    """Measure on the CPU, by processes of their own."""
    with tempfile.TemporaryDirectory(prefix="ldm-bench-") as folder:
        out = Path(folder, "memory.json")
        job = Job(
            recipe=subject.recipe.plain(),
            weights=weights,
            batch=subject.count,
            threads=torch.get_num_threads(),
            choice=choice,
            out=str(out),
        )
        line = [sys.executable, "-m", __name__]
        done = subprocess.run(line, input=json.dumps(unstructure(job)), text=True, capture_output=True, check=False)
        if done.returncode < 0:
            raise ConfigError(
                f"no_memory: the process that measures memory was ended by signal {-done.returncode}, most likely for "
                "want of memory; take a smaller `batch`, or leave memory out with `no_memory`"
            )
        if done.returncode or not out.exists():
            raise RuntimeError(f"the process that measures memory failed:\n{done.stderr[-4000:]}")
        rows = json.loads(out.read_text())
    return {(component, precision): size for component, precision, size in rows}


def main() -> int:
    """Do the job on stdin."""
    job = structure(json.loads(sys.stdin.read()), Job)
    torch.set_num_threads(1)  # a pool of threads does not survive a fork, so that none may begin before
    from ldm_core.catalog import Catalog
    from ldm_core.training import workflow

    catalog = Catalog.discover()
    recipe, info = workflow.prepare(job.recipe, catalog)
    subject = Subject(recipe, info, catalog, torch.device("cpu"), batch=job.batch, weights=job.weights)
    made = list(cases(subject, job.choice, []))
    rows = [(case.component, case.precision, _forked(case.call, job.threads)) for case in made]
    Path(job.out).write_text(json.dumps(rows))
    return 0


def _forked(call: Callable[[], object], threads: int) -> int | None:
    """The result of :func:`risen` in a child; None if it was killed, by the kernel for want of memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            torch.set_num_threads(threads)
            os.write(writer, str(risen(call)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    os.waitpid(child, 0)
    return int(text) if text else None


def risen(call: Callable[[], object]) -> int:
    """The rise of this process's resident set in a second `call`, at its peak, in bytes. Linux alone."""
    call()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text(_RESET)
    before = resident()["VmRSS"]
    kept = call()
    peak = resident()["VmHWM"]
    del kept
    return max(0, peak - before)


def resident() -> Mapping[str, int]:
    """The kernel's counts of this process, in bytes: ``VmRSS`` now, ``VmHWM`` the most."""
    rows: Sequence[str] = _STATUS.read_text().splitlines()
    wanted = ("VmRSS", "VmHWM")
    return {name: int(row.split()[1]) * 1024 for row in rows if (name := row.partition(":")[0]) in wanted}


if __name__ == "__main__":
    sys.exit(main())
