"""Finetuning: a module starts from trained weights.

Fitting tensors are taken and the rest is reported: rows of a class table go by their classes' names, further
input channels of a denoiser start at zero, a conditioner with a vocabulary is taken whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import ConditionerAnswers
from ldm_core.contracts.configs import of
from ldm_core.errors import CheckpointError, clean
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import tensors_of
from ldm_core.model.finite import require
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import site_of
from ldm_core.recipe.settings import EngineSettings
from ldm_core.recipe.sources import init_header
from ldm_core.training.context import RunContext
from ldm_core.weights.convert import finder

LEAST_SHARE = 0.01
"""Least share of the parameters from trained weights: some bias always happens to fit."""
_EXTRA = "_extra_state"
Adapt = Callable[[str, Tensor, Tensor], "tuple[Tensor, str] | None"]
"""(name, own, theirs) -> the replacement and a word on its making, None if nothing can be made of them."""


@attrs.frozen
class Start:
    """The starting weights of a module, by name: those `taken` as they are, those `adapted` and those left `fresh`,
    each with the reason, and the `unused` ones of the source. `share` of the parameters' values is the source's."""

    source: str = ""
    sha256: str = ""
    taken: tuple[str, ...] = ()
    adapted: Mapping[str, str] = attrs.field(factory=dict)
    fresh: Mapping[str, str] = attrs.field(factory=dict)
    unused: tuple[str, ...] = ()
    share: float = 0.0
    notes: tuple[str, ...] = ()

    def has(self, prefix: str) -> bool:
        """Say whether all names with `prefix`, at least one, were taken as they are."""
        rest = [n for n in (*self.adapted, *self.fresh) if n.startswith(prefix)]
        return not rest and any(n.startswith(prefix) for n in self.taken)

    def text(self) -> str:
        """One line for the user."""
        count = len(self.taken) + len(self.adapted) + len(self.fresh)
        parts = [
            f"starts from {self.source} ({self.sha256[:12]}): {len(self.taken)} of {count} tensors, {self.share:.1%} "
            "of the parameters"
        ]
        for what, names in (("adapted", self.adapted), ("fresh", self.fresh)):
            if names:
                parts.append(f"{len(names)} {what} ({_few([f'{n}: {why}' for n, why in names.items()])})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the source not used ({_few(self.unused)})")
        return "; ".join([*parts, *self.notes])

    def plain(self) -> dict[str, Any]:
        """The account for JSON and the new weights' metadata."""
        return {
            "source": storage.without_folders(self.source),
            "sha256": self.sha256,
            "taken": len(self.taken),
            "share": round(self.share, 6),
            "adapted": dict(self.adapted),
            "fresh": dict(list(self.fresh.items())[:100]),
            "unused": list(self.unused[:100]),
            "notes": list(self.notes),
        }


def _few(lines: Sequence[str], most: int = 3) -> str:
    return ", ".join(lines[:most]) + (f", and {len(lines) - most} more" if len(lines) > most else "")


def start_first_stage(context: RunContext, stage: nn.Module) -> Start:
    """Let a fresh first stage start from ``first_stage_trainer.init_from``; nothing happens if it is empty."""
    settings = context.recipe.first_stage_trainer
    if not settings.init_from:
        return Start()
    header, tensors = _source(settings, "first_stage_trainer", context.catalog)
    found = _take(stage, tensors, header, "first_stage_trainer", lambda name, own, theirs: None)
    return _told(context, "first_stage", found)


def start_model(context: RunContext, model: Model) -> Start:
    """Let a fresh model start from ``trainer.init_from``; nothing happens if it is empty."""
    settings, recipe = context.recipe.trainer, context.recipe
    if not settings.init_from:
        return Start()
    header, tensors = _source(settings, "trainer", context.catalog)
    theirs = _uses(header.config.get("conditioners"))
    misfit = {}
    for part in recipe.conditioners:
        prefix = f"conditioners.{part.name}."
        if (use := theirs.get(part.name, part.use)) != part.use:
            misfit[prefix] = f"the source's '{part.name}' is a {clean(use, 60)}"
        elif _vocabulary_misfit(model.conditioners[part.name], tensors, prefix):
            misfit[prefix] = "its vocabulary or sizes are others"
    kept = {k: v for k, v in tensors.items() if not any(k.startswith(p) for p in misfit)}
    names = {k: tuple(v) for k, v in (header.extra.get("class_names") or {}).items()}
    tables = _class_tables(model)
    cond = site_of(recipe).cond
    channels = recipe.first_stage.config.latent.channels

    def adapt(name: str, own: Tensor, other: Tensor) -> tuple[Tensor, str] | None:
        if name in tables:
            key, axis = tables[name]
            return _by_class(own, other, axis, names.get(key, ()), tuple(context.info.class_names.get(key, ())))
        if name.startswith("denoiser."):
            return _more_inputs(own, other, channels, channels + cond.concat)
        return None

    found = _take(model, kept, header, "trainer", adapt)
    fresh = {k: v for k, v in found.fresh.items() if not (k.startswith("adapters.") and recipe.trainer.train != "all")}
    why = {k: next((w for p, w in misfit.items() if k.startswith(p)), reason) for k, reason in fresh.items()}
    return _told(context, "denoiser", attrs.evolve(found, fresh=why, notes=tuple(_notes(context, header))))


def _uses(rows: Any) -> dict[str, str]:
    """Give the component of each conditioner in a file, by name."""
    known = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    found = [(row.get("name"), row.get("use")) for row in known]
    return {name: use for name, use in found if isinstance(name, str) and isinstance(use, str)}


def _source(settings: EngineSettings, section: str, catalog: Catalog) -> tuple[artifacts.Header, dict[str, Tensor]]:
    header = init_header(settings, section, settings.init_sha256, finder(catalog))
    tensors = tensors_of(header.url, warn=False)  # bad ones are an error only if taken
    if not header.url.startswith(settings.init_from):  # made of foreign weights, and named by those
        header = attrs.evolve(header, url=settings.init_from)
    return header, tensors


def _told(context: RunContext, stage: str, found: Start) -> Start:
    context.run.say(f"{stage.replace('_', ' ')}: {found.text()}", "warning" if found.fresh or found.notes else "info")
    context.results.started[stage] = found.plain()
    return found


def _take(
    module: nn.Module, tensors: Mapping[str, Tensor], header: artifacts.Header, section: str, adapt: Adapt
) -> Start:
    """Fill `module` with the fitting `tensors`; :class:`CheckpointError` if next to none fits."""
    own: dict[str, Any] = dict(module.state_dict())
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    taken: list[str] = []
    adapted: dict[str, str] = {}
    fresh: dict[str, str] = {}
    for name, value in list(own.items()):
        theirs = tensors.get(name)
        if theirs is None:
            fresh[name] = "not in the source"
        elif name.endswith(_EXTRA):
            own[name] = theirs
            taken.append(name)
        elif (made := adapt(name, value, theirs)) is not None:
            own[name], adapted[name] = made
        elif theirs.shape == value.shape:
            own[name] = theirs
            taken.append(name)
        else:
            fresh[name] = f"{_size(theirs)} there, {_size(value)} here"
    where = storage.shown(header.url)
    share = sum(sizes.get(n, 0) for n in (*taken, *adapted)) / max(1, sum(sizes.values()))
    if share < LEAST_SHARE:
        first = next((f"; e.g. {name}: {why}" for name, why in fresh.items()), "")
        raise CheckpointError(
            f"{section}.init_from: next to nothing of {where} fits this recipe ({share:.2%} of the parameters{first}); "
            "use the recipe that it was trained with, or leave init_from out"
        )
    names = [n for n in (*taken, *adapted) if n in sizes]
    advice = f"training would begin with them: give other weights, or leave {section}.init_from out"
    require({n: own[n] for n in names}, f"{section}.init_from: {where}", CheckpointError, advice)
    module.load_state_dict(own)
    unused = tuple(n for n in tensors if n not in own)
    return Start(where, header.sha256, tuple(taken), adapted, fresh, unused, share)


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def _vocabulary_misfit(conditioner: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Say whether a conditioner with a learned vocabulary has other tables than the source's: tokens would mean
    nothing."""
    own = conditioner.state_dict()
    if not any(k.endswith(_EXTRA) for k in own):
        return False
    return any(
        prefix + k not in tensors or (not k.endswith(_EXTRA) and tensors[prefix + k].shape != v.shape)
        for k, v in own.items()
    )


def _class_tables(model: Model) -> dict[str, tuple[str, int]]:
    """Parameters with a row a class, as conditioners tell by `class_tables`: name -> the batch key and the axis."""
    return {
        f"conditioners.{name}.{parameter}": place
        for name, conditioner in model.conditioners.items()
        for parameter, place in of(ConditionerAnswers, conditioner).class_tables.items()
    }


def _by_class(
    own: Tensor, theirs: Tensor, axis: int, before: Sequence[str], now: Sequence[str]
) -> tuple[Tensor, str] | None:
    """Rows by the names of their classes, and the rows behind them by their place: a null class, or what else shares a
    table of equal length with the classes (the cells of a layout)."""
    if not before or not now or tuple(before) == tuple(now) or own.dim() != theirs.dim():
        return None
    a, b = own.movedim(axis, 0), theirs.movedim(axis, 0)
    if a.shape[1:] != b.shape[1:] or len(a) < len(now) or len(b) < len(before):
        return None
    row = {name: i for i, name in enumerate(before)}
    found = [(i, row[name]) for i, name in enumerate(now) if name in row]
    tail = len(a) - len(now)
    if tail and tail == len(b) - len(before):
        found += [(len(now) + i, len(before) + i) for i in range(tail)]
    elif len(a) == len(b):
        found += [(i, i) for i in range(len(now), len(a))]
    out = a.clone()
    for i, j in found:
        out[i] = b[j]
    same = sum(name in row for name in now)
    return out.movedim(0, axis).contiguous(), f"{same} of {len(now)} classes by name"


def _more_inputs(own: Tensor, theirs: Tensor, channels: int, inputs: int) -> tuple[Tensor, str] | None:
    """A first convolution with further input channels (concatenated conditions), without effect at first."""
    before = theirs.shape[1] if theirs.dim() > 2 else 0
    if own.dim() < 3 or own.dim() != theirs.dim() or own.shape[1] != inputs or not channels <= before < inputs:
        return None
    if own.shape[0] != theirs.shape[0] or own.shape[2:] != theirs.shape[2:]:
        return None
    out = torch.zeros_like(own)
    out[:, :before] = theirs
    return out, f"{inputs - before} further input channel(s) from zero"


def _notes(context: RunContext, header: artifacts.Header) -> list[str]:
    recipe, lines = context.recipe, []
    for kind in ("parameterization", "schedule"):
        before, now = header.config.get(kind), getattr(recipe, kind).plain()
        if isinstance(before, Mapping) and dict(before) != now:
            lines.append(f"the source's {kind} is {_said(before, now)}, this recipe's is {_said(now, before)}")
    return lines


def _said(part: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    changed = [f"{clean(k, 60)}={clean(v, 40)}" for k, v in part.items() if k != "use" and other.get(k) != v][:8]
    return clean(part.get("use"), 60) + (
        f" with {', '.join(changed)}" if changed and part.get("use") == other.get("use") else ""
    )
