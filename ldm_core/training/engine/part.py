"""DeepSpeed, one code path from one CPU process to many accelerators: one engine a part, at any ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import PartAnswers
from ldm_core.contracts.configs import of
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.launch.compilers import lacking
from ldm_core.nn.recompute import recompute
from ldm_core.recipe.deepspeed import engine_config, loss_scale_settings
from ldm_core.recipe.settings import EngineSettings
from ldm_core.training.engine.deepspeed_patches import drop_step
from ldm_core.training.engine.loss_scale import LossScale
from ldm_core.training.engine.world import World, import_deepspeed


def require_machine(settings: EngineSettings, device: torch.device, section: str) -> None:
    """:class:`ConfigError` if this machine lacks a feature in use: fp16 on a CPU, compiling without a compiler."""
    problems = []
    if settings.precision == "fp16" and device.type == "cpu":
        problems.append(
            f"{section}.precision: fp16 needs an accelerator and this run is on the CPU; use bf16 (autocast, no loss "
            "scale) or fp32"
        )
    if settings.compile and (line := lacking(device.type)):
        problems.append(f"{section}.compile: {line}, or set {section}.compile=false")
    if problems:
        raise ConfigError(problems)


class Part:
    """One part of a task: a module, with its loss from ``forward``, in a DeepSpeed engine with its optimizer.

    The engine's module may hold more than it trains: only parameters with ``requires_grad`` get an optimizer.
    `networks` are its modules with the arithmetic: ``compile`` and ``activation_checkpointing`` are theirs.
    With `by_block` each of their blocks is compiled by itself, and the code between them stays as it is: a loss may
    then take gradients at a single layer, unlike in a network compiled as a whole.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        settings: EngineSettings,
        world: World,
        section: str,
        *,
        networks: Sequence[nn.Module] = (),
        by_block: bool = False,
    ) -> None:
        require_machine(settings, world.device, section)
        self.name, self.module, self.settings = name, module.to(world.device), settings
        self.applied = True
        """True if the last step changed the weights: its gradients were finite and not discarded."""
        layouts = _laid_out(module, name)
        if settings.activation_checkpointing and networks:
            recompute(_blocks(networks, f"{section}.activation_checkpointing"))
        if settings.compile and networks:
            for network in _blocks(networks, f"{section}.compile") if by_block else networks:
                network.compile()  # in place: names in the state dict stay
        self.names = {p: n for n, p in module.named_parameters()}
        self._trained = [p for p in self.names if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self._trained,
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=settings.offload == "none",
        )
        config = engine_config(settings, world.size, section, trained=sum(p.numel() for p in self._trained))
        if not settings.zero:
            config["gradient_clipping"] = 0.0  # done here, beside the norm
        self.engine = _initialize(self.module, optimizer, config, section)
        if world.size == 1 and not settings.zero:
            self.engine.enable_backward_allreduce = False  # it would copy all gradients twice to average one process
        if not settings.zero:
            for parameter, layout in layouts.items():
                parameter.data = parameter.data.contiguous(memory_format=layout)
        self.loss_scale: LossScale | None = None
        """fp16's; a checkpoint holds its ``state()``."""
        if settings.precision == "fp16":
            self.loss_scale = LossScale.of(loss_scale_settings(settings, section))

    @property
    def scale(self) -> float:
        """The factor of the loss in the backward pass: fp16's, else 1."""
        return 1.0 if self.loss_scale is None else self.loss_scale.value

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr

    def adopt(self, module: nn.Module) -> None:
        """Take over parameters of `module` written in place (ZeRO 0 to 2); ZeRO keeps its own copies."""
        if self.settings.zero:
            from deepspeed.utils import safe_set_full_fp32_param

            for parameter in module.parameters():
                safe_set_full_fp32_param(parameter, parameter.detach().clone())

    @contextmanager
    def gathered(self, written: Sequence[nn.Parameter] = ()) -> Iterator[None]:
        """Inside, every parameter is whole on every process, to be read; all processes must enter. ZeRO 3 divides
        them otherwise, and a state dict then holds empty tensors. Those `written`, which are not trained, keep what the
        first process puts into them."""
        if self.settings.zero == 3:
            import deepspeed

            whole, own = deepspeed.zero.GatheredParameters, set(written)
            with whole([p for p in self.names if p not in own]), ExitStack() as stack:
                if own:
                    stack.enter_context(whole(list(own), modifier_rank=0))
                yield
        else:
            yield

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the engine divides by the accumulation."""
        if self.loss_scale is not None:
            if self.settings.zero:
                self.engine.optimizer.override_loss_scale(self.loss_scale.value)  # it scales, and unscales in its step
            else:
                loss = loss * self.loss_scale.value
        self.engine.backward(loss)

    def step(self, *, measure: bool = False) -> float | None:
        """One optimizer step at an accumulation boundary, else nothing; with `measure`, the norm of the averaged
        gradients before clipping (None inside an accumulation).

        Gradients not finite are dropped if they are looked at: at every ZeRO stage from 1 on, in fp16, with
        ``bad_steps=skip``, and with `measure`. All processes do the same; :attr:`applied` tells.
        """
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
            return None
        norm = self._step_zero() if self.settings.zero else self._step_plain(measure)
        if self.loss_scale is not None:
            self.loss_scale.update(finite=self.applied)
        return norm if measure else None

    def discard(self) -> None:
        """Drop the gradients, in place of the step at the end of an accumulation; weights and moments stay. All
        processes must call it."""
        if not self.engine.is_gradient_accumulation_boundary():
            raise RuntimeError("discard() takes the place of the last step of an accumulation")
        if self.settings.zero:
            drop_step(self.engine, self.settings.zero)
        else:
            self._drop()
            self.engine.step()
        self.applied = False

    def _step_plain(self, measure: bool) -> float | None:
        settings, scale = self.settings, self.loss_scale
        looked_at = measure or scale is not None or settings.bad_steps == "skip"
        norm, value = None, None
        self.applied = True
        grads = [p.grad for p in self._trained if p.grad is not None]
        if grads and (looked_at or settings.clip):
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            factor = 1.0 if scale is None else 1.0 / scale.value
            if settings.clip:
                factor = factor * (settings.clip / (norm * factor + 1e-6)).clamp(max=1.0)
            if looked_at:  # it waits for the device, so not otherwise
                value = float(norm) if scale is None else float(norm) / scale.value
                self.applied = math.isfinite(value)
            if not self.applied:
                self._drop()
            elif scale is not None or settings.clip:
                torch._foreach_mul_(grads, factor)
        self.engine.step()
        return (value if grads else 0.0) if looked_at else None

    def _step_zero(self) -> float:
        self.engine.step()
        self.applied = not self.engine.optimizer.overflow
        return float(self.engine.get_global_grad_norm()) if self.applied else math.inf

    def _drop(self) -> None:
        for parameter in self._trained:
            parameter.grad = None


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], section: str) -> Any:
    try:
        engine, *_ = import_deepspeed().initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
    except ValueError as error:
        if type(error).__name__ != "ValidationError":  # pydantic's, of DeepSpeed's configuration
            raise
        lines: Any = error.errors()  # type: ignore[attr-defined]
        raise ConfigError(
            f"{section}.deepspeed.zero_optimization.{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in lines
        ) from None
    return engine


def _laid_out(module: nn.Module, name: str) -> dict[nn.Parameter, torch.memory_format]:
    """Bring parameters into DeepSpeed's starting form: some dimension, laid out row by row. Returns the former
    ``channels_last`` ones: if ZeRO does not flatten them, they can be again."""
    layouts = {}
    for key, parameter in module.named_parameters():
        if parameter.requires_grad and not parameter.dim():
            raise ComponentError(
                f"part '{name}': parameter '{key}' has no dimension, which DeepSpeed does not take; make it one of "
                "shape (1,)"
            )
        if not parameter.is_contiguous():
            if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
                layouts[parameter] = torch.channels_last
            parameter.data = parameter.data.contiguous()
    return layouts


def _blocks(networks: Sequence[nn.Module], setting: str) -> list[nn.Module]:
    found = [b for n in networks if (blocks := of(PartAnswers, n).recompute_blocks) is not None for b in blocks()]
    if not found:
        kinds = ", ".join(sorted({type(n).__name__ for n in networks}))
        raise ConfigError(f"{setting}: {kinds} names no blocks of its own (recompute_blocks()); set {setting}=false")
    return found
