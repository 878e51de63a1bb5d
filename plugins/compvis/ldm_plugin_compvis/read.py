"""The tensors of a recognised file under our names; missing, unknown and omitted ones are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ldm_core import storage
from ldm_core.contracts import CondSpec, LatentSpec
from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import ConfigError
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.layout import expected
from ldm_plugin_compvis.layout.state_dict import AUTOENCODER, NAME, allowed, averaged
from ldm_plugin_compvis.recognise.found import Found
from ldm_plugin_compvis.shapes import released as fingerprints

WITH_TOKENIZER = ("text", "clip_text")
"""Conditioners with a tokenizer in their state; no such file holds one."""
FIRST_CONV = "input_blocks.0.0.weight"


def mask_last(weight: Tensor, latent: int) -> Tensor:
    """The first convolution (C, 2 latent + 1, 3, 3) for latents, masked latents, mask in place of the mask second."""
    return torch.cat([weight[:, :latent], weight[:, latent + 1 :], weight[:, latent : latent + 1]], 1)


def mask_second(weight: Tensor, latent: int) -> Tensor:
    """The inverse of :func:`mask_last`."""
    return torch.cat([weight[:, :latent], weight[:, -1:], weight[:, latent:-1]], 1)


@attrs.define
class _Taken:
    """Tensors under our names, as they are collected; names of the file used so far, or known to be spare."""

    found: Found
    missing: list[str] = attrs.field(factory=list)
    known: set[str] = attrs.field(factory=set)
    averaged: int = 0

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """One tensor of the file, in `shape`; None and a line in `missing` if it is absent or of another."""
        self.known.add(name)
        stored = self.found.shapes.get(name)
        if stored is None:
            self.missing.append(name)
        elif stored != shape and _squeezed(stored) != _squeezed(shape):
            self.missing.append(f"{name} in shape {shape} (the file: {stored})")
        else:  # 1×1 convolutions and linear layers hold the same numbers
            return self.found.file.read(name).reshape(shape)
        return None

    def part(self, prefix: str, shapes: Mapping[str, tuple[int, ...]], ema: str | None) -> dict[str, Tensor]:
        """All of `shapes` from under `prefix`; with `ema`, from their averages under that prefix if they exist."""
        out: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            average = averaged((ema or "") + name)
            if average in self.found.shapes:
                self.known |= {average, prefix + name}
            use = ema is not None and average in self.found.shapes
            self.averaged += use
            if (value := self.take(average if use else prefix + name, shape)) is not None:
                out[name] = value
        return out


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def read(found: Found, config: CompVisConfig, where: str) -> ModelWeights:
    """The weights of a recognised file. ConfigError with the candidates while something is unknown."""
    if found.unknown:
        raise ConfigError(
            [
                f"{storage.shown(where)}: nothing says {path}"
                + (f"; set one of: {', '.join(map(str, candidates))}" if candidates else f" ({found.notes[-1]})")
                for path, candidates in found.unknown.items()
            ]
        )
    taken = _Taken(found)
    layout, recipe = found.layout, found.recipe
    stage: dict[str, Tensor] | None = None
    if found.stage is not None and layout.first_stage is not None:
        use, fields = _stage_of(recipe["first_stage"], found)
        names = expected.of_first_stage(use, fields, recipe.get("image_channels", found.stage.image_channels))
        alone = found.unet is None
        stage = taken.part(layout.first_stage, names, "" if config.ema and alone else None)
        z = found.stage.latent_channels
        mean, std = found.normalization or ((0.0,) * z, (1.0 / found.scale_factor,) * z)
        stage |= {"latent_mean": torch.tensor(mean), "latent_std": torch.tensor(std)}
    model: dict[str, Tensor] | None = None
    if found.unet is not None and layout.denoiser is not None:
        unet = found.unet
        cond = CondSpec(crossattn=unet.crossattn, concat=unet.concat, vector=unet.vector)
        names = expected.of_unet(recipe["denoiser"], unet.latent_channels, cond)
        own = taken.part(layout.denoiser, names, "diffusion_model." if config.ema else None)
        if found.mask_first and FIRST_CONV in own:
            own[FIRST_CONV] = mask_last(own[FIRST_CONV], unet.latent_channels)
        model = {f"denoiser.{name}": value for name, value in own.items()}
        if stage is not None:
            model |= _conditioners(taken, where)
    lone = model is not None and stage is None
    unexpected, spare = _left(taken, lone)
    notes = [*found.notes, *_notes(taken, config, spare)]
    if lone and layout.conditioner is not None:
        notes.append("the conditioner was left out: without a first stage, the U-Net stands by itself")
    return ModelWeights(
        recipe=recipe,
        first_stage=stage,
        model=model,
        latent=_latent(found) if lone else None,
        cond=cond if lone else None,
        class_names=found.class_names,
        kept={NAME: {"scale_by_std": True}} if found.scale_by_std else {},
        missing=tuple(taken.missing),
        unexpected=tuple(unexpected),
        notes=tuple(notes),
    )


def _stage_of(part: Mapping[str, Any], found: Found) -> tuple[str, dict[str, Any]]:
    assert found.stage is not None
    return found.stage.use, {k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}


def _latent(found: Found) -> LatentSpec:
    assert found.unet is not None
    row = fingerprints.row_of(found.unet, None, "")
    factor = 2 ** (len(fingerprints.STAGES[row.stage][1]["channel_mult"]) - 1) if row else 8
    return LatentSpec(channels=found.unet.latent_channels, stride=(factor, factor))


def _conditioners(taken: _Taken, where: str) -> dict[str, Tensor]:
    found = taken.found
    out: dict[str, Tensor] = {}
    prefix = found.layout.conditioner or ""
    rows = found.recipe.get("conditioners", [])
    for row in [rows] if isinstance(rows, str) else rows:
        row = {"use": row} if isinstance(row, str) else row
        use, name = row["use"], row.get("name", row["use"])
        try:
            shapes = expected.of_conditioner(use, row)
        except KeyError as error:
            held = "no conditioner" if found.conditioner is None else f"'{found.conditioner.use}'"
            raise ConfigError(
                f"{storage.shown(where)}: conditioners: '{use}' was named without its {error.args[0]}, which is the "
                f"file's to say; the file holds {held}: leave `conditioners` out, or give all settings of '{use}'"
            ) from None
        if use == "clip_text" and found.conditioner is not None and found.conditioner.openclip:
            own = _opened(taken, prefix, shapes)
        elif use == "clip_text":
            bare = prefix + "transformer.embeddings.token_embedding.weight" in found.shapes
            names = {n: n.replace("text_model.", "") if bare else n for n in shapes}
            taken_under = taken.part(prefix, {names[n]: s for n, s in shapes.items()}, None)
            own = {n: taken_under[at] for n, at in names.items() if at in taken_under}
        else:
            own = taken.part(prefix, shapes, None)
        if use in WITH_TOKENIZER:
            own["_extra_state"] = torch.empty(0, dtype=torch.uint8)
        out |= {f"conditioners.{name}.{key}": value for key, value in own.items()}
    return out


def _opened(taken: _Taken, prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """CLIP out of OpenCLIP's names: fused projections are cut in three."""
    out: dict[str, Tensor] = {}
    stored = [k.removeprefix(prefix + clip_keys.OPEN) for k in taken.found.shapes if k.startswith(prefix)]
    layers = clip_keys.layers_of(shapes)
    taken.known |= {prefix + clip_keys.OPEN + name for name in stored if clip_keys.unused(name, layers)}
    left = dict(shapes)
    for name in stored:
        ours = [clip_keys.OURS + n for n in clip_keys.open_names(name)]
        if not ours or any(n not in left for n in ours):
            continue
        shape = left[ours[0]]
        whole = taken.take(prefix + clip_keys.OPEN + name, (len(ours) * shape[0], *shape[1:]))
        for n, piece in zip(ours, whole.chunk(len(ours)) if whole is not None else (), strict=False):
            out[n] = piece.contiguous()
        for n in ours:
            del left[n]
    taken.missing += [f"{prefix}({n})" for n in left]
    return out


def _left(taken: _Taken, lone: bool) -> tuple[list[str], dict[str, int]]:
    """Names known to nobody, and the number of omitted ones of each known kind."""
    found = taken.found
    prefix = found.layout.conditioner
    doubled = found.conditioner is not None and found.conditioner.use == "masked_image"
    unexpected, spare = [], dict[str, int]()
    for name in found.shapes:
        if name in taken.known or name in ("model_ema.decay", "model_ema.num_updates"):
            continue
        what = allowed(name)
        if what is None and prefix and name.startswith(prefix):
            first = name[len(prefix) :].split(".")[0]
            if lone:
                what = ""
            elif doubled and first in AUTOENCODER:
                what = "the first stage a second time, as the conditioner"
        if what is None and name.startswith(("model_ema.loss", "model_ema.first_stage", "model_ema.cond_stage")):
            what = "averages of losses"
        if what is None:
            unexpected.append(name)
        elif what:
            spare[what] = spare.get(what, 0) + 1
    return unexpected, spare


def _notes(taken: _Taken, config: CompVisConfig, spare: Mapping[str, int]) -> Iterable[str]:
    if taken.found.layout.ema:
        yield (
            f"averaged weights (model_ema) taken for {taken.averaged} tensors; codec.ema=false takes the others"
            if config.ema
            else "averaged weights (model_ema) are there and were left out; codec.ema=true takes them"
        )
    if taken.found.stage is not None and taken.found.scale_factor != 1.0:
        yield f"scale factor {taken.found.scale_factor:.8g}: the latents' std is {1 / taken.found.scale_factor:.8g}"
    for row in taken.found.recipe.get("conditioners", []):
        if isinstance(row, Mapping) and row["use"] in WITH_TOKENIZER and taken.found.unet and not row.get("tokenizer"):
            yield (
                f"the file holds no tokenizer; give one with conditioners.{row.get('name', row['use'])}.tokenizer=PATH"
            )
    yield from (f"left out: {what} ({count})" for what, count in spare.items())
