"""Training checkpoints: our own files, keyed by parameter name, so that they do not depend on processes or ZeRO stage.

A checkpoint is a folder ``step-00001000`` with ``state.safetensors`` and, written last, ``manifest.json`` with the
hash of the former: a folder without a manifest that fits is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ldm_core import storage
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.training.ema import EMA
from ldm_core.training.engine import Part
from ldm_core.training.world import World

_STATE, _MANIFEST = "state.safetensors", "manifest.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def part_state(part: Part) -> dict[str, Tensor]:
    """A part's weights, buffers and optimizer state by name, whole, on the CPU; every process must call it."""
    module, optimizer = part.module, part.engine.optimizer
    out = {f"{part.name}/state/{k}": v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    for parameter, name in part.names.items():
        if not parameter.requires_grad:
            continue
        for key in _MOMENTS:
            if part.settings.zero:
                from deepspeed.utils import safe_get_full_optimizer_state

                value = safe_get_full_optimizer_state(parameter, key)
            else:
                value = optimizer.state.get(parameter, {}).get(key)
            if value is not None:
                out[f"{part.name}/{key}/{name}"] = value
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in out.items()}


def load_part(part: Part, tensors: Mapping[str, Tensor], step: int) -> None:
    """Fill a part's weights and optimizer state from named tensors; `step` is the optimizer's own counter."""
    prefix = f"{part.name}/state/"
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    own = part.module.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [
        k for k, v in own.items() if v.shape != state[k].shape and not k.endswith("_extra_state")
    ]
    if wrong:
        raise CheckpointError(
            f"the checkpoint is of another architecture (part '{part.name}', first difference: '{wrong[0]}'); use the "
            "recipe that it was made with, or another --out"
        )
    part.module.load_state_dict(state)
    if not step:
        return
    if part.settings.zero:
        _load_zero(part, tensors, step)
        return
    for parameter, name in part.names.items():
        if parameter.requires_grad and f"{part.name}/exp_avg/{name}" in tensors:
            part.engine.optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{k: tensors[f"{part.name}/{k}/{name}"].to(parameter.device) for k in _MOMENTS},
            }


def _load_zero(part: Part, tensors: Mapping[str, Tensor], step: int) -> None:
    # ZeRO has no optimizer state before its first step: make one with a zero loss and a zero rate, then fill it in.
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    engine = part.engine
    part.set_lr(0.0)
    trained = [(p, n) for p, n in part.names.items() if p.requires_grad]
    for _ in range(part.settings.accumulate):
        engine.backward(torch.stack([p.sum() for p, _ in trained]).sum() * 0.0)
        engine.step()
    for parameter, name in trained:
        safe_set_full_fp32_param(parameter, tensors[f"{part.name}/state/{name}"])
        for key in _MOMENTS:
            if f"{part.name}/{key}/{name}" in tensors:
                safe_set_full_optimizer_state(parameter, tensors[f"{part.name}/{key}/{name}"], key)
    if hasattr(engine.optimizer, "update_lp_params"):
        engine.optimizer.update_lp_params()
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for group in base.param_groups:
        for p in group["params"]:
            if "step" in base.state.get(p, {}):
                base.state[p]["step"] = torch.tensor(float(step), device=p.device)
    part.module.load_state_dict(
        {k.removeprefix(f"{part.name}/state/"): v for k, v in tensors.items() if k.startswith(f"{part.name}/state/")}
    )


def write(
    folder: str,
    step: int,
    parts: Sequence[Part],
    ema: EMA | None,
    world: World,
    *,
    identity: str,
    part_steps: Mapping[str, int],
    keep: int,
) -> None:
    """Write ``folder/step-N`` and drop all but the `keep` newest; every process must call it, the first one writes."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        tensors.update(part_state(part))
    if ema is not None:
        tensors.update({f"ema/{k}": v.detach().cpu() for k, v in ema.shadow.items()})
    if world.main:
        data = save(tensors)
        target = storage.join(folder, f"step-{step:08d}")
        storage.make_folder(target)
        storage.atomic_write(storage.join(target, _STATE), data)
        manifest = {
            "format": 1,
            "step": step,
            "identity": identity,
            "part_steps": dict(part_steps),
            "ema_updates": ema.updates if ema else 0,
            "threads": torch.get_num_threads(),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        storage.atomic_write(storage.join(target, _MANIFEST), json.dumps(manifest, indent=1))
        for old in _steps(folder)[:-keep]:
            storage.remove(storage.join(folder, f"step-{old:08d}"), recursive=True)
    world.barrier()


def _steps(folder: str) -> list[int]:
    """Steps of the checkpoints with a manifest, ascending."""
    try:
        files = storage.list_files(folder, recursive=True)
    except StorageError:
        return []
    names = [f.url.replace("\\", "/").rsplit("/", 2) for f in files]
    return sorted(int(n[-2].removeprefix("step-")) for n in names if n[-1] == _MANIFEST and n[-2].startswith("step-"))


class Found:
    """The newest valid checkpoint of a folder; `damaged` names those that were passed over, and why."""

    def __init__(self, folder: str, identity: str) -> None:
        self.damaged: list[str] = []
        self.step = 0
        self.manifest: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        for step in reversed(_steps(folder)):
            target = storage.join(folder, f"step-{step:08d}")
            try:
                manifest = json.loads(storage.read_text(storage.join(target, _MANIFEST)))
                data = storage.read_bytes(storage.join(target, _STATE))
                if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                    raise CheckpointError("its content does not match its manifest")
            except (StorageError, CheckpointError, ValueError, KeyError) as error:
                self.damaged.append(f"checkpoint {target} is damaged and passed over: {error}")
                continue
            if manifest["identity"] != identity:
                raise CheckpointError(
                    f"{target} was made with another recipe or other data; take that recipe again, or another --out"
                )
            self.step, self.manifest, self.tensors = step, manifest, load(data)
            return
