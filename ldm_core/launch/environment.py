"""Variables from a launcher: a process's rank, the place to meet, the time to wait. Torch-free.

torchrun and DeepSpeed's launcher set ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``;
srun has variables of its own, and :func:`adopt` translates them; :mod:`ldm_core.launch.ranks` sets the usual ones.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import MutableMapping
from datetime import timedelta

from ldm_core.errors import ConfigError, ContractError, Interrupted, LDMError, NotFiniteError, clean

SUPERVISOR = "LDM_SUPERVISOR"
"""Process id of the supervisor (:mod:`ldm_core.launch.ranks`) that started this process."""
RANK_LOG = "LDM_RANK_LOG"
"""File for the first process's lines of progress, when its output goes to a terminal."""
TIMEOUT = "LDM_TIMEOUT"
"""Minutes that a process waits for the others in a collective operation."""
_DEFAULT_MINUTES = 30.0
_MOST_MINUTES = 5_256_000.0  # ten years
_ORPHAN_SECONDS = 60.0  # that a process whose starter was killed has to write its checkpoint
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


_followed = False


def supervised() -> bool:
    """True where a supervisor (:mod:`ldm_core.launch.ranks`) started this process."""
    return _followed


def timeout(environ: MutableMapping[str, str] = os.environ) -> timedelta:
    """Longest wait of a process for the others: ``LDM_TIMEOUT`` minutes, 30 by default."""
    text = environ.get(TIMEOUT, "")
    try:
        minutes = float(text) if text else _DEFAULT_MINUTES
    except ValueError:
        minutes = -1.0
    if not 0 < minutes <= _MOST_MINUTES:
        raise ConfigError(f"{TIMEOUT}: expected minutes, a number above 0, got '{clean(text, 40)}'")
    return timedelta(minutes=minutes)


def adopt(environ: MutableMapping[str, str] = os.environ) -> None:
    """Translate srun's variables to the usual ones, if this process is a task of a job step of several.

    A ``RANK`` that a launcher has set stays; the batch script itself has no step and stays as it is.
    """
    if "RANK" in environ or "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return
    size = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or "1"
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
    if size == "1" or not nodes:
        return
    job = int(environ.get("SLURM_JOB_ID", "0")) + int(environ["SLURM_STEP_ID"])
    environ.update(RANK=environ["SLURM_PROCID"], WORLD_SIZE=size, LOCAL_RANK=environ.get("SLURM_LOCALID", "0"))
    environ.setdefault("MASTER_ADDR", first_host(nodes))
    environ.setdefault("MASTER_PORT", str(15000 + job % 20000))  # the same on all nodes, another for another job


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: ``gpu[03-05,9],login`` -> ``gpu03``."""
    outside = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    first = outside.group() if outside else nodes
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def error_prefix(error: LDMError, environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Prefix of an error's lines in this process; None if another process prints the same error.

    All processes find the same mistake in a recipe or a part, so one of each machine prints it; any other mistake
    carries the rank. A supervised process prints everything, because it has a log of its own.
    """
    if supervised() or environ.get("LOCAL_RANK", "0") == "0":
        return ""
    alike = (ConfigError, ContractError, NotFiniteError, Interrupted)
    return None if isinstance(error, alike) else f"rank {environ.get('RANK', '?')}: "


def follow(environ: MutableMapping[str, str] = os.environ) -> None:
    """End with the supervisor that started this process, even a killed one, after a checkpoint."""
    global _followed
    pid = int(environ.pop(SUPERVISOR, "0"))  # taken out: what this process starts must not take it for its own
    if not pid:
        return
    _followed = True
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    threading.Thread(target=_watch, args=(pid,), name="supervisor", daemon=True).start()


def _watch(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(130)  # waiting for a process that is gone
