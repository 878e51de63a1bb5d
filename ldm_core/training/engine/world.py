"""One process among all of a run: the process group up and down, sums over it, and DeepSpeed's import.

DeepSpeed on a CPU, as measured: its shared-memory op would be compiled at start (40 s, and fails without a
compiler), so it is switched off there; its logger writes to stdout; without RANK and its kin it looks for MPI.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from ldm_core.errors import ConfigError, Interrupted, TrainingError
from ldm_core.launch import environment, memory
from ldm_core.training.engine import deepspeed_patches

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "timeout caused pair closure",
    "Broken pipe",
    "Socket closed",
)  # gloo's words


@attrs.frozen
class World:
    """One process among all: `rank` of `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True if this process writes files and talks to the user."""
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """The mean of `value` over all processes; the same on each."""
        return value if self.size == 1 else self.sum(value) / self.size

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` (same shape and dtype on each) over all processes; the same on each, without gradient."""
        if self.size == 1:
            return value
        out = value.detach().to(self.device, copy=True).contiguous()
        torch.distributed.all_reduce(out)
        return out.to(value.device)

    def broadcast(self, value: Tensor) -> Tensor:
        """The first process's `value` (same shape and dtype on each), on every process."""
        if self.size == 1:
            return value
        out = value.detach().to(self.device, copy=True).contiguous()
        torch.distributed.broadcast(out, 0)
        return out.to(value.device)

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, anything picklable, by rank; the same list on each."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(out, value)
        return out

    def any(self, flag: bool) -> bool:
        """Say whether `flag` is true on any process; the same answer on each."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=self.device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return bool(value.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            own = [self.device.index] if self.device.type == "cuda" else None
            torch.distributed.barrier(device_ids=own)


def start() -> World:
    """Bring the process group up (once per process) from a launcher's or srun's variables, or for one process.

    Raises :class:`ConfigError` if there are more processes on this machine than GPUs.
    """
    environment.adopt(os.environ)
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        memory.keep_freed()
    alone = "RANK" not in os.environ
    rank, size = (0, 1) if alone else (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # DeepSpeed's engine reads it. RANK stays unset: a child process must not take it for its own.
    local = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", gpu_of(local, torch.cuda.device_count())) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    import_deepspeed()
    if not torch.distributed.is_initialized():
        import deepspeed

        hook = sys.excepthook
        backend = "nccl" if cuda else "gloo"
        if alone:
            # A store in memory: it has no port for another run on this machine to take.
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        else:
            wait = environment.timeout()
            deepspeed_patches.set_default_timeout(wait)
            torch.distributed.init_process_group(backend, rank=rank, world_size=size, timeout=wait)
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        if size == 1:
            sys.excepthook = hook  # torch's would put the rank before each line of a traceback
        atexit.register(stop)
    return World(rank, size, device)


def gpu_of(local: int, count: int) -> int:
    """The GPU of this machine's process number `local`; srun may show each process one GPU alone."""
    if count == 1:
        return 0
    if local >= count:
        raise ConfigError(
            f"this machine has {count} GPUs and process {local + 1} was started on it; start one process a GPU"
        )
    return local


@contextmanager
def ending(here: World) -> Iterator[None]:
    """A context: if this process fails inside, it leaves the group at once, as the others may be waiting for it in a
    collective call; :class:`TrainingError` replaces the call's own error if another process is gone or does not
    answer."""
    try:
        yield
    except Interrupted:
        raise  # all of them leave
    except BaseException as error:
        if here.size > 1:
            abandon()
            if said := lost(error):
                raise TrainingError(
                    f"rank {here.rank} has lost another process of the run ({said}); what was saved stays, and the "
                    "same command goes on from it"
                ) from error
        raise


def lost(error: BaseException) -> str:
    """Give a collective operation's message on another process gone or without an answer; empty for other errors."""
    text = next(iter(str(error).splitlines()), "")
    network = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return text if network or (isinstance(error, RuntimeError) and any(w in text for w in _LOST)) else ""


def abandon() -> None:
    """Take the process group down without waiting: this process failed, and the others learn it by the lost link."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def stop() -> None:
    """Take the process group down; without it some two-process runs end in an abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        try:
            if torch.distributed.get_world_size() > 1:
                torch.distributed.barrier()
        except RuntimeError:
            pass  # another process is gone: there is no one to wait for
        torch.distributed.destroy_process_group()


def leave() -> None:
    """Take the process group of a run of one process down, so that the process may begin another, or the caller one."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() == 1:
        stop()
        deepspeed_patches.forget_groups()


def import_deepspeed() -> Any:
    """The package, imported without a word on stdout, and on a CPU without its compiled op."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its import logs to stdout, reserved for a command's JSON
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        logging.disable(previous)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed
