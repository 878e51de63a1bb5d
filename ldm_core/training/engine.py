"""DeepSpeed, one code path from one CPU process to many accelerators: processes up and down, one engine a part.

What DeepSpeed does on a CPU was measured: its shared-memory op would be compiled at start (40 s, and fails without a
compiler), so it is switched off there; its logger writes to stdout; without RANK and its kin it looks for MPI.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.errors import ConfigError
from ldm_core.settings import FirstStageTrainerSettings, TrainerSettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


@attrs.frozen
class World:
    """This process among all: `rank` of `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """The mean of `value` over all processes; the same on each."""
        if self.size == 1:
            return value
        out = value.detach().clone()
        torch.distributed.all_reduce(out)
        return out / self.size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process; the same answer on each."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=self.device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return bool(value.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            torch.distributed.barrier()


def start() -> World:
    """Bring the process group up (once per process) from torchrun's or DeepSpeed's variables, or for one process."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _keep_freed_memory()
    alone = "RANK" not in os.environ
    rank, size = (0, 1) if alone else (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # DeepSpeed's engine reads it. RANK stays unset: a process that this one starts must not take it for its own.
    local = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    _deepspeed()
    if not torch.distributed.is_initialized():
        import deepspeed

        backend = "nccl" if cuda else "gloo"
        if alone:
            # A store in memory: there is no port that another run on this machine could take.
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        atexit.register(stop)
    return World(rank, size, device)


def _keep_freed_memory() -> None:
    """Let glibc keep the large blocks that a training step frees. By default it hands them back to the kernel, and
    the next step pays for fresh pages: 12 to 20 % of a CPU step of the laptop recipe. Other C libraries: nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


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


def _deepspeed() -> Any:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its import logs to stdout, where --json belongs
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        logging.disable(previous)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


_OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
_SETTING_OF = {
    "train_batch_size": "images_per_step",
    "train_micro_batch_size_per_gpu": "images_per_step / accumulate",
    "gradient_accumulation_steps": "accumulate",
    "gradient_clipping": "clip",
    "optimizer": "lr, betas, weight_decay",
    "scheduler": "schedule, warmup_steps",
    "bf16": "precision",
    "fp16": "precision",
}


def engine_config(settings: TrainerSettings | FirstStageTrainerSettings, world: World, section: str) -> dict[str, Any]:
    """DeepSpeed's configuration; :class:`ConfigError` where raw settings contradict the recipe's own."""
    share = world.size * settings.accumulate
    if settings.images_per_step % share:
        raise ConfigError(
            f"{section}.images_per_step: {settings.images_per_step} is not divisible by {world.size} process(es) x "
            f"accumulate {settings.accumulate}; use a multiple of {share}"
        )
    raw = {k: dict(v) if isinstance(v, Mapping) else v for k, v in settings.deepspeed.items()}
    clashes = [f"{section}.deepspeed.{key}: set {section}.{_SETTING_OF[key]} instead" for key in _OURS if key in raw]
    if "stage" in raw.get("zero_optimization", {}):
        clashes.append(f"{section}.deepspeed.zero_optimization.stage: set {section}.zero instead")
    if clashes:
        raise ConfigError(clashes)
    zero = {"stage": settings.zero, **raw.pop("zero_optimization", {})}
    return {
        "train_batch_size": settings.images_per_step,
        "train_micro_batch_size_per_gpu": settings.images_per_step // share,
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
        "wall_clock_breakdown": False,
        **raw,
    }


class Part:
    """One part of a task: a module whose ``forward`` returns its loss, in a DeepSpeed engine with its optimizer.

    The engine's module may hold more than it trains: only parameters with ``requires_grad`` get an optimizer.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        settings: TrainerSettings | FirstStageTrainerSettings,
        world: World,
        section: str,
    ) -> None:
        self.name, self.module, self.settings = name, module.to(world.device), settings
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        config = engine_config(settings, world, section)
        self.engine, *_ = _deepspeed().initialize(
            model=self.module, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.names = {p: n for n, p in module.named_parameters()}

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr

    def adopt(self, module: nn.Module) -> None:
        """Take over parameters of `module` that were written in place; ZeRO keeps its own copies."""
        if self.settings.zero:
            from deepspeed.utils import safe_set_full_fp32_param

            for parameter in module.parameters():
                safe_set_full_fp32_param(parameter, parameter.detach().clone())

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the engine divides by the accumulation."""
        self.engine.backward(loss)

    def step(self, *, measure: bool = False) -> float | None:
        """One optimizer step at an accumulation boundary, else nothing; with `measure`, the gradient norm before
        clipping (None inside an accumulation)."""
        boundary = self.engine.is_gradient_accumulation_boundary()
        norm = None
        if measure and boundary and self.settings.zero == 0:
            # stage 0 in fp32 does not report it
            grads = [p.grad for p in self.names if p.grad is not None]
            norm = float(torch.stack([g.norm() for g in grads]).norm()) if grads else 0.0
        self.engine.step()
        if measure and boundary and self.settings.zero:
            norm = float(self.engine.get_global_grad_norm())
        return norm


def learning_rate(settings: TrainerSettings | FirstStageTrainerSettings, step: int) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then constant, or to 0 at `steps` by cosine or line."""
    import math

    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    span = max(1, settings.steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / span)
    if settings.schedule == "linear":
        return settings.lr * (1 - done)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
