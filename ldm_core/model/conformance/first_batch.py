"""The contracts of a run's parts, checked in its first batch: a breach is told before torch fails on it.

The output shapes of networks, guidances and samplers are compared at each call, at a microsecond's cost; checks that
wait for the device (finite values, masks) run only while a :class:`Contracts` is open, in a run's first batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import Estimate, LossOutput, NoiseSchedule, PartAnswers, draw_times
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.configs import TimesConfig, of
from ldm_core.contracts.values import CondSpec, LatentSpec
from ldm_core.model.conformance.breaches import Named, breach, named, shown, unsound
from ldm_core.model.conformance.bundle import hold_bundle, hold_null, lost
from ldm_core.recipe.recipe import Recipe


class Contracts:
    """The promises of one model's parts. `parts`: their names in messages, conditioners by ``conditioners.NAME``,
    adapters by ``adapters.KEY``."""

    def __init__(self, recipe: Recipe, catalog: Catalog, latent: LatentSpec | None = None) -> None:
        self.latent = latent or recipe.first_stage.config.latent
        kinds = ("first_stage", "denoiser", "schedule", "parameterization", "objective")
        self.parts: dict[str, Named] = {kind: named(getattr(recipe, kind), catalog) for kind in kinds}
        self.parts |= {f"adapters.{part.key}": named(part, catalog) for part in recipe.adapters}
        self._specs: dict[str, CondSpec] = {}
        self._reads: dict[str, tuple[str, ...]] = {}
        for part in recipe.conditioners:
            self.parts[f"conditioners.{part.name}"] = named(part, catalog)
            self._specs[part.name] = part.config.spec(self.latent)
            self._reads[part.name] = tuple(part.config.reads)
        self.is_open = False
        """True if a run is in its first batch."""
        self._grid: tuple[int, ...] | None = None

    def open(self, grid: Sequence[int]) -> None:
        """Begin a run on latents with the axes `grid`."""
        self.is_open, self._grid = True, tuple(grid)

    def close(self) -> None:
        """End the first batch."""
        self.is_open = False

    def given(self, batch: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """`batch` for a conditioner to encode; it tells of a lacking key."""
        return _Given(batch, self.parts[f"conditioners.{name}"], self._reads[name]) if self.is_open else batch

    def hold_bundles(self, conds: Mapping[str, Any], batch: Mapping[str, Any], device: torch.device) -> None:
        """Hold the conditioners' bundles of a batch to their specs."""
        for name, cond in conds.items():
            part, spec = self.parts[f"conditioners.{name}"], self._specs[name]
            read = {key: batch[key] for key in self._reads[name] if key in batch}
            hold_bundle(part, cond, spec, read, grid=self._grid, device=device)

    def hold_nulls(self, nulls: Mapping[str, Any], conds: Mapping[str, Cond]) -> None:
        """Hold nulls to the bundles they stand for."""
        for name, null in nulls.items():
            hold_null(self.parts[f"conditioners.{name}"], null, conds[name])

    def network_breach(self, out: Any, x: Tensor) -> Exception:
        """The error of a denoiser for an output misfit to `x`."""
        channels, axes = x.shape[1], ", ".join(map(str, x.shape[2:]))
        return breach(
            self.parts["denoiser"],
            "forward",
            f"made {shown(out)} of x {shown(x)}",
            f"({x.shape[0]}, {channels} or more, {axes}), the first {channels} channels being F",
            "the widths are site.latent.channels in and out; sizes must come back as they were",
        )

    def hold_network(self, out: Tensor, x: Tensor, cond: Cond) -> None:
        """The denoiser's first output: floating, on x's device, and finite if its inputs are."""
        part = self.parts["denoiser"]
        if not out.is_floating_point():
            raise breach(part, "forward", f"made {shown(out)}", "floating values")
        if out.device != x.device:
            raise breach(part, "forward", f"made F on {out.device}", f"{x.device}, where x is")
        if lost(out) and not lost(x) and not any(v.is_floating_point() and lost(v) for v in cond.flat().values()):
            raise unsound(part, "forward", "an output")


class _Given(dict[str, Any]):
    """A batch that tells of a key not declared by its conditioner."""

    def __init__(self, batch: Mapping[str, Any], part: Named, reads: tuple[str, ...]) -> None:
        super().__init__(batch)
        self._part, self._reads = part, reads

    def __missing__(self, key: Any) -> Any:
        raise breach(
            self._part,
            "encode",
            f"reads the key '{key}'",
            f"the keys of its reads alone: {', '.join(self._reads) or 'none'}",
            "declare it in the config's reads, and a data set that offers it is asked for",
        )


def is_output(out: Any, x: Tensor) -> bool:
    """True if `out` has the shape of a denoiser's output for `x` (B, C, *s): (B, C or more, *s)."""
    return (
        isinstance(out, Tensor)
        and out.dim() == x.dim()
        and out.shape[0] == x.shape[0]
        and out.shape[1] >= x.shape[1]
        and out.shape[2:] == x.shape[2:]
    )


def hold_estimate(part: Named | None, method: str, estimate: Any, x: Tensor) -> None:
    """A guidance's estimate: x0 of x's shape."""
    x0 = getattr(estimate, "x0", None)
    if part is None or (isinstance(x0, Tensor) and x0.shape == x.shape):
        return
    seen = f"returned {type(estimate).__name__}" if not isinstance(estimate, Estimate) else f"made x0 {shown(x0)}"
    raise breach(part, method, f"{seen} for x {shown(x)}", f"an Estimate whose x0 is {shown(x)}")


def hold_result(part: Named | None, out: Any, x: Tensor) -> None:
    """A sampler's result: of the shape and type of its first x."""
    if part is None or (isinstance(out, Tensor) and out.shape == x.shape and out.dtype == x.dtype):
        return
    raise breach(part, "sample", f"returned {shown(out)} for x {shown(x)}", f"{shown(x)}, x at times[-1]")


def hold_times(part: Named | None, times: Any, steps: int, schedule: NoiseSchedule, *, more: bool = False) -> None:
    """A grid's times: steps + 1 (with `more`, or more), float64, finite, strictly decreasing, within [0, t_max]."""
    if part is None:
        return
    expected = f"{steps + 1} float64 times, strictly decreasing, from t_max {schedule.t_max:g} or below to 0 or above"
    if more and isinstance(times, Tensor) and times.dim() == 1:
        steps = max(steps, len(times) - 1)
    if not isinstance(times, Tensor) or times.shape != (steps + 1,) or times.dtype != torch.float64:
        raise breach(part, "times", f"made {shown(times)} for {steps} steps", expected)
    values = times.tolist()
    if not all(a > b for a, b in pairwise(values)):  # NaN compares with nothing
        at = next(i for i, (a, b) in enumerate(pairwise(values)) if not a > b)
        raise breach(part, "times", f"made {values[at]:g} and then {values[at + 1]:g} at {at}", expected)
    if not -1e-9 <= values[-1] <= values[0] <= schedule.t_max * (1 + 1e-9):
        raise breach(part, "times", f"made times from {values[0]:g} to {values[-1]:g}", expected)


def hold_loss(part: Named | None, out: Any, x0: Tensor) -> None:
    """An objective's output: a floating loss for each example."""
    value = getattr(out, "value", None)
    if part is None or (isinstance(value, Tensor) and value.shape == x0.shape[:1] and value.is_floating_point()):
        return
    seen = f"returned {type(out).__name__}" if not isinstance(out, LossOutput) else f"made {shown(value)}"
    fix = "mean over the axes of each example (error.flatten(1).mean(1)), and not over the batch"
    raise breach(part, "loss", f"{seen} for x0 {shown(x0)}", f"a LossOutput with value ({len(x0)},), floating", fix)


def hold_sampled(part: Named | None, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """The weights that an objective gives in the place of the model's `own`: names and shapes of theirs."""
    for name, value in given.items() if part is not None else ():
        if name not in own or value.shape != own[name].shape:
            known = f"{shown(own[name])}, as the model's" if name in own else "a name of the model's state dict"
            raise breach(part, "sampled", f"gave '{name}' {shown(value)}", known)  # type: ignore[arg-type]


def hold_kept_config(part: Named, built: Any, config: Any) -> None:
    """A schedule or time grid whose config asks for the latents' size: it keeps that config, by which it is asked."""
    if of(TimesConfig, config).by_size and not of(TimesConfig, of(PartAnswers, built).config).by_size:
        raise breach(part, "config", "is not kept, and by_size is True there", "the config that it was built from",
                     "set self.config = config in the constructor")  # fmt: skip


def hold_schedule(part: Named, schedule: Any, shape: Sequence[int] | None = None) -> None:
    """A schedule's numbers: float64 in t's shape, finite; data at 0; rising noise; draws within (0, t_max].

    `shape` (C, *s) is that of one example's latents.
    """
    end = schedule.t_max
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < float("inf"):
        raise breach(part, "t_max", f"is {shown(end)} {end!r}", "a number above 0")
    t = torch.linspace(0, float(end), 9, dtype=torch.float64)
    if t.is_meta:  # a model laid out without memory has no numbers
        return
    found = {name: getattr(schedule, name)(t) for name in ("alpha", "sigma", "noise_level")}
    u = torch.tensor([0.0, 0.25, 0.5, 0.999], dtype=torch.float64)
    drawn = draw_times(schedule, u, shape)
    for name, value in (*found.items(), ("draw", drawn)):
        like = u if name == "draw" else t
        if not isinstance(value, Tensor) or value.shape != like.shape:
            raise breach(part, name, f"made {shown(value)} of {shown(like)}", f"a tensor of shape {tuple(like.shape)}")
        if name in ("alpha", "sigma") and value.dtype != torch.float64:
            raise breach(part, name, f"made {shown(value)}", "float64, since coefficients are kept exact")
        if name != "noise_level" and not bool(value.isfinite().all()):
            raise breach(part, name, "is not finite between 0 and t_max", "finite values")
    if (alpha := float(found["alpha"][0])) != 1.0:
        raise breach(part, "alpha", f"is {alpha:g} at t = 0", "1: t = 0 is data")
    if (sigma := float(found["sigma"][0])) != 0.0:
        raise breach(part, "sigma", f"is {sigma:g} at t = 0", "0: t = 0 is data")
    if not bool((torch.atan2(found["sigma"], found["alpha"]).diff() > 0).all()):
        raise breach(part, "sigma", "over alpha does not increase with t", "noise that grows from data to t_max")
    if not bool(((drawn > 0) & (drawn <= end)).all()):
        raise breach(part, "draw", f"made times from {float(drawn.min()):g} to {float(drawn.max()):g}",
                     f"times in (0, {end:g}]")  # fmt: skip


def hold_parameterization(part: Named, parameterization: Any, schedule: NoiseSchedule) -> None:
    """A parameterization's coefficients: three, in alpha's shape, finite if there is both data and noise."""
    t = torch.linspace(0.3, 0.7, 3, dtype=torch.float64) * float(schedule.t_max)
    if t.is_meta:
        return
    found = parameterization.coefficients(schedule.alpha(t), schedule.sigma(t))
    if not isinstance(found, tuple) or len(found) != 3:
        raise breach(part, "coefficients", f"returned {type(found).__name__}", "a tuple of c_skip, c_out and c_in")
    for name, value in zip(("c_skip", "c_out", "c_in"), found, strict=True):
        if not isinstance(value, Tensor) or value.shape != t.shape:
            raise breach(part, "coefficients", f"made {name} {shown(value)}", f"a tensor of shape {tuple(t.shape)}")
        if not bool(value.isfinite().all()):
            raise breach(part, "coefficients", f"made {name} that is not finite amid the schedule", "finite values")
