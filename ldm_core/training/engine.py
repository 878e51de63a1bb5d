"""DeepSpeed, one code path from one CPU process to many accelerators: its configuration, and one engine a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.errors import ConfigError
from ldm_core.settings import EngineSettings
from ldm_core.training.world import World, import_deepspeed

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


def engine_config(settings: EngineSettings, world: World, section: str) -> dict[str, Any]:
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
        settings: EngineSettings,
        world: World,
        section: str,
    ) -> None:
        self.name, self.module, self.settings = name, module.to(world.device), settings
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        config = engine_config(settings, world, section)
        self.engine, *_ = import_deepspeed().initialize(
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
