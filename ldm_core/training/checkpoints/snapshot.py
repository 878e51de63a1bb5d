"""The state of a training run, by name: parts, averages and a task's own tensors, out of the engines and back in.

Names do not depend on the number of processes nor on the ZeRO stage: tensors are gathered whole, one at a time, so a
device holds one of them beside its own; only the first process keeps them, in reused buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.errors import CheckpointError
from ldm_core.training.engine.part import Part

MOMENTS = ("exp_avg", "exp_avg_sq")
_SCALE, _STEP = "loss_scale", "step"


def optimizer_steps(part: Part) -> int:
    """Count the steps of a part's optimizer by its own counter, without the dropped ones."""
    optimizer = part.engine.optimizer
    states = getattr(optimizer, "optimizer", optimizer).state.values()
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def part_tensors(part: Part) -> Iterator[tuple[str, Tensor]]:
    """A part's weights, buffers and optimizer moments by name, each whole; every process must go through all of it."""
    steps = optimizer_steps(part)  # without any there are no moments
    parameters = dict(part.module.named_parameters(remove_duplicate=False))
    for name, value in part.module.state_dict().items():
        if isinstance(value, Tensor):
            whole = _whole(parameters[name], part) if name in parameters else value
            yield f"{part.name}/state/{name}", whole.detach()
    for parameter, name in part.names.items():
        if not (steps and parameter.requires_grad):
            continue
        for key in MOMENTS:
            value = _moment(parameter, part, key)
            if value is not None:
                yield f"{part.name}/{key}/{name}", value.detach()
        if not part.settings.zero and (own := _own_steps(parameter, part)) != steps:
            yield f"{part.name}/{_STEP}/{name}", torch.tensor([float(own)])
    if part.loss_scale is not None:
        yield f"{part.name}/{_SCALE}/state", part.loss_scale.state()


def _whole(parameter: nn.Parameter, part: Part) -> Tensor:
    """The parameter itself, in float32 if its engine trains a copy in lower precision."""
    import deepspeed

    if parameter.requires_grad and (part.settings.zero == 3 or (part.settings.zero and parameter.dtype != torch.float)):
        return deepspeed.utils.safe_get_full_fp32_param(parameter)
    if part.settings.zero == 3:
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter


def _moment(parameter: nn.Parameter, part: Part, key: str) -> Tensor | None:
    if part.settings.zero:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, key)
    return part.engine.optimizer.state.get(parameter, {}).get(key)


def _own_steps(parameter: nn.Parameter, part: Part) -> int:
    """Steps of a parameter with a gradient: a codebook has none before its batch. ZeRO counts a group as one."""
    return int(part.engine.optimizer.state.get(parameter, {}).get("step", 0))


class HostCopy:
    """Copies of tensors in host memory (pinned beside an accelerator), in buffers overwritten by the next copy."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, named: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
        """Go through `named`; with `keep`, hand back copies, complete when this returns."""
        out: dict[str, Tensor] = {}
        moving = False
        for name, value in named:
            if not keep:
                continue
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[name] = _host_buffer(value)
            buffer.copy_(value, non_blocking=value.is_cuda)
            moving = moving or value.is_cuda
            out[name] = buffer
        if moving:
            torch.cuda.synchronize()
        self._buffers = out if keep else {}  # tensors gone from the state (a shorter cache) hold no memory
        return dict(out)


def _host_buffer(like: Tensor) -> Tensor:
    if like.is_cuda:
        try:
            return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        except RuntimeError:
            pass  # no more memory can be pinned: the copy is slower
    return torch.empty(like.shape, dtype=like.dtype)


class Restore:
    """Puts named tensors back into parts, as they come; :meth:`finish` holds the whole to be complete."""

    def __init__(self, parts: Sequence[Part], steps: Mapping[str, int]) -> None:
        self._targets = {part.name: _Target(part, int(steps[part.name])) for part in parts}
        self.others: dict[str, Tensor] = {}
        """Tensors of no part: averages (``ema/``) and the task's own (``task/``), copies in host memory."""

    def take(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Tensors by their names from :func:`part_tensors`."""
        for key, value in named:
            part, _, rest = key.partition("/")
            kind, _, name = rest.partition("/")
            if part in ("ema", "task"):
                self.others[key] = value.clone()
            elif part in self._targets:
                self._targets[part].take(kind, name, value)
            else:
                raise _other_architecture(part, name)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The others under ``prefix/``, without it."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.others.items() if k.startswith(f"{prefix}/")}

    def finish(self) -> None:
        """Load the modules' own share of the state; :class:`CheckpointError` if something was missing."""
        for target in self._targets.values():
            target.finish()


class _Target:
    """One part during its filling."""

    def __init__(self, part: Part, steps: int) -> None:
        self._part, self._steps = part, steps
        self._parameters = dict(part.module.named_parameters(remove_duplicate=False))
        self._own = part.module.state_dict()
        self._missing = {k for k, v in self._own.items() if isinstance(v, Tensor)}
        self._rest: dict[str, Tensor] = {}
        if steps:
            _make_optimizer_state(part, steps)

    def take(self, kind: str, name: str, value: Tensor) -> None:
        if kind == "state":
            self._weight(name, value)
        elif kind in MOMENTS and name in self._parameters:
            if self._steps:
                _set_moment(self._part, self._parameters[name], kind, value)
        elif kind == _STEP and name in self._parameters:
            if self._steps and not self._part.settings.zero:
                self._part.engine.optimizer.state[self._parameters[name]]["step"].fill_(float(value))
        elif kind == _SCALE:
            if self._part.loss_scale is not None:
                self._part.loss_scale.load(value)
        else:
            raise _other_architecture(self._part.name, name)

    def _weight(self, name: str, value: Tensor) -> None:
        if name not in self._missing:
            raise _other_architecture(self._part.name, name)
        self._missing.discard(name)
        parameter = self._parameters.get(name)
        if parameter is None:
            if value.shape != self._own[name].shape and not name.endswith("_extra_state"):
                raise _other_architecture(self._part.name, name)
            self._rest[name] = value.clone()
            return
        if value.shape != getattr(parameter, "ds_shape", parameter.shape):
            raise _other_architecture(self._part.name, name)
        _set_weight(self._part, parameter, value)

    def finish(self) -> None:
        if self._missing:
            raise _other_architecture(self._part.name, min(self._missing))
        self._part.module.load_state_dict(self._rest, strict=False)


def _other_architecture(part: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is of another architecture (part '{part}', first difference: '{name}'); use the recipe that "
        "it was made with, or another `out`"
    )


def _set_weight(part: Part, parameter: nn.Parameter, value: Tensor) -> None:
    stage = part.settings.zero
    if stage < 3:
        with torch.no_grad():
            parameter.copy_(value)
    else:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(value)
    if stage and parameter.requires_grad:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if stage == 3:
            safe_set_local_fp32_param(parameter, _share(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)


def _set_moment(part: Part, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    if not part.settings.zero:
        part.engine.optimizer.state[parameter][key].copy_(value)
        return
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if part.settings.zero == 3:
        safe_set_local_optimizer_state(parameter, _share(parameter, value), key)
    else:
        safe_set_full_optimizer_state(parameter, value, key)


def _share(parameter: Any, value: Tensor) -> Tensor:
    """The process's part of a whole tensor under ZeRO 3. DeepSpeed's setter fails on uneven parts."""
    count = parameter.ds_tensor.numel()
    start = count * torch.distributed.get_rank(parameter.ds_process_group)
    mine = value.flatten()[start : start + count]
    return torch.nn.functional.pad(mine, (0, count - mine.numel()))


def _make_optimizer_state(part: Part, steps: int) -> None:
    """Zero moments, with `steps` on the counter: AdamW (and so ZeRO) has them from its first step on only."""
    stage, optimizer = part.settings.zero, part.engine.optimizer
    if stage == 3:
        base, masters = optimizer.optimizer, optimizer.fp32_partitioned_groups_flat
    elif stage:
        base, masters = optimizer.optimizer, optimizer.single_partition_of_fp32_groups
    else:
        base, masters = optimizer, [p for p in part.names if p.requires_grad]
    for master in masters:
        base.state[master] = {
            "step": torch.tensor(float(steps), device=master.device),
            **{key: torch.zeros_like(master, memory_format=torch.preserve_format).detach() for key in MOMENTS},
        }
    if stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()  # tells the parameters the places of their shares in it
    engine = part.engine
    engine.global_steps, engine.micro_steps = steps, steps * part.settings.accumulate
    engine.global_samples = steps * part.settings.images_per_step
