"""The candidates of a tuning: combinations of settings of sampling, some of them drawn by a seed. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.config import overrides
from ldm_core.contracts import Precision
from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.errors import ConfigError
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.settings import CHOICES, require_steps, with_settings
from ldm_core.weights import presets
from ldm_core.weights.presets import Preset
from ldm_plugin_study.tune.caches import Cache

Interval = tuple[float, float | None] | None


@attrs.frozen(kw_only=True)
class Candidate:
    """Settings of the sampling to be tried. `guidance`: the guidance by name; `scale` None: it has none; `interval`
    None: all levels; `more`: one more setting, ``KEY=VALUE``; `bounded`: its guidance knows intervals; `cache`: one of
    features, beside the model's own `adapters`."""

    sampler: str
    time_grid: str
    steps: int
    guidance: str
    scale: float | None = None
    interval: Interval = None
    bounded: bool = False
    more: str = ""
    precision: Precision = "fp32"
    cache: Cache | None = None
    adapters: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """As ``KEY=VALUE`` settings of a sampling, but for steps and precision."""
        lines = [f"sampler={self.sampler}", f"time_grid={self.time_grid}"]
        if self.scale is not None:
            lines.append(f"guidance.scale={self.scale:g}")
        if self.bounded:
            high = None if self.interval is None else self.interval[1]
            bounds = "" if self.interval is None else f"{self.interval[0]:g},{'null' if high is None else f'{high:g}'}"
            lines.append(f"guidance.interval={f'[{bounds}]' if bounds else 'null'}")
        if self.cache is not None:
            lines.append(f"adapters=[{', '.join([*self.adapters, self.cache.row])}]")
        return [*lines, *([self.more] if self.more else [])]

    @property
    def name(self) -> str:
        """A name, of a folder too."""
        words = [self.sampler, str(self.steps), self.time_grid]
        words += [] if self.scale is None else [f"scale{self.scale:g}"]
        words += [] if self.interval is None else ["{}to{}".format(*(f"{x or 0:g}" for x in self.interval))]
        words += [] if self.cache is None else [self.cache.name]
        words += [] if self.precision == "fp32" else [self.precision]
        words += [f"x{hashlib.sha256(self.more.encode()).hexdigest()[:8]}"] if self.more else []
        return "-".join(words)

    @property
    def label(self) -> str:
        """The name for a reader."""
        scale = "" if self.scale is None else f", scale {self.scale:g}"
        span = "" if self.interval is None else " from {:g} to {}".format(self.interval[0], self.interval[1] or "inf")
        more = f", {self.more}" if self.more else ""
        low = "" if self.precision == "fp32" else f", {self.precision}"
        kept = "" if self.cache is None else f", {self.cache.label}"
        return f"{self.sampler}, {self.steps} steps, {self.time_grid}{scale}{span}{kept}{more}{low}"

    def plain(self) -> dict[str, Any]:
        """The settings as in a recipe, complete by themselves, as a preset keeps them."""
        found: dict[str, Any] = {}
        overrides.apply_overrides(found, self.settings, CHOICES)
        if isinstance(found.get("guidance"), Mapping):
            found["guidance"] = {"use": self.guidance, **found["guidance"]}
        sample = found.get("sample")
        return {**found, "sample": {**(sample if isinstance(sample, Mapping) else {}), "steps": self.steps}}


@attrs.frozen(kw_only=True)
class Space:
    """The values to combine; none: the model's own, with a few common ones. `usual`: those of caches."""

    samplers: Sequence[str] = ()
    time_grids: Sequence[str] = ()
    steps: Sequence[int] = ()
    scales: Sequence[float] = ()
    intervals: Sequence[Interval] = ()
    more: Sequence[str] = ()
    precisions: Sequence[Precision] = ()
    caches: Sequence[Cache | None] = ()
    usual: Sequence[Cache | None] = (None,)
    count: int = 48
    seed: int = 0


SAMPLERS = ("dpm_solver_pp_2m", "unipc")
GRIDS = ("karras",)
STEPS = (4, 6, 8, 12, 20)
SCALES = (1.0, 1.5, 2.0, 3.0)
INTERVALS: tuple[Interval, ...] = (None, (0.3, 3.0))


def own(recipe: Recipe) -> Candidate:
    """The settings in the recipe of the trained model."""
    guidance = recipe.guidance.config
    known = {field.name for field in attrs.fields(type(guidance))}
    interval = tuple(guidance.interval) if "interval" in known and guidance.interval is not None else None
    return Candidate(
        sampler=recipe.sampler.use,
        time_grid=recipe.time_grid.use,
        steps=recipe.sample.steps,
        guidance=recipe.guidance.use,
        scale=of(GuidanceConfig, guidance).scale,
        interval=interval,  # type: ignore[arg-type]
        bounded="interval" in known,
        adapters=tuple(part.name for part in recipe.adapters),
    )


def candidates(recipe: Recipe, space: Space, catalog: Catalog) -> list[Candidate]:
    """The model's own settings, and `count` of the combinations, drawn by the seed: more of them contain the fewer.
    ConfigError for unknown settings, and for those beyond a preset."""
    first = own(recipe)
    made: dict[str, Candidate] = {}
    problems: dict[Candidate, ConfigError] = {}
    for candidate in _combined(first, space, catalog):
        try:
            _require(candidate, recipe, catalog)
            made[candidate.name] = candidate
        except ConfigError as error:
            problems[candidate] = error
    _require_all(space, list(made.values()), problems)
    made.pop(first.name, None)
    order = sorted(made, key=lambda name: hashlib.sha256(f"{space.seed} {name}".encode()).hexdigest())
    chosen = set(order[: max(space.count - 1, 1)])
    return [first, *(candidate for name, candidate in made.items() if name in chosen)]


def _combined(first: Candidate, space: Space, catalog: Catalog) -> list[Candidate]:
    def there(kind: str, mine: str, usual: Sequence[str], given: Sequence[str]) -> list[str]:
        for name in given:
            catalog.get(kind, name)
        return list(given) or list(dict.fromkeys([mine, *(n for n in usual if n in catalog.names(kind))]))

    samplers = there("sampler", first.sampler, SAMPLERS, space.samplers)
    grids = there("time_grid", first.time_grid, GRIDS, space.time_grids)
    scales: list[float | None] = [None]
    if first.scale is not None:
        scales = [*(space.scales or sorted({*SCALES, first.scale}))]
    elif space.scales:
        raise ConfigError(f"scales: the model's guidance '{first.guidance}' has none; leave them out")
    spans = (list(space.intervals) or [*INTERVALS]) if first.bounded else [None]
    more, precisions = ["", *space.more], space.precisions or ["fp32"]
    caches = space.caches or space.usual
    every = product(samplers, grids, space.steps or STEPS, scales, spans, more, precisions, caches)
    return [
        attrs.evolve(
            first,
            sampler=a,
            time_grid=b,
            steps=c,
            scale=d,
            interval=None if d == 1 else e,
            more=f,
            precision=g,
            cache=h,
        )
        for a, b, c, d, e, f, g, h in every
        if h is None or (h.fits(c) and not f.startswith("adapters"))
    ]


def _require_all(space: Space, made: Sequence[Candidate], problems: Mapping[Candidate, ConfigError]) -> None:
    """Raise the error of a given value without any fitting combination; one with some is left out elsewhere."""
    for cache in space.caches:
        if cache is not None and not any(cache.fits(steps) for steps in space.steps or STEPS):
            raise ConfigError(f"cache: {cache.label} has nothing to keep in {max(space.steps or STEPS)} steps")
    keys = ("sampler", "time_grid", "steps", "more", "cache")
    for key, values in zip(
        keys, (space.samplers, space.time_grids, space.steps, space.more, space.caches), strict=True
    ):
        for value in values:
            if not any(getattr(each, key) == value for each in made):
                raise next(error for each, error in problems.items() if getattr(each, key) == value)
    if not made:
        raise next(iter(problems.values()))


def _require(candidate: Candidate, recipe: Recipe, catalog: Catalog) -> None:
    """ConfigError for settings at odds with the model, or changed by a preset."""
    made = with_settings(recipe, [*candidate.settings, f"sample.steps={candidate.steps}"], catalog)
    require_steps(made, candidate.steps)
    presets.check({"tuned": Preset(settings=candidate.plain())}, catalog)
    if with_settings(recipe, candidate.plain(), catalog) != made:
        raise ConfigError(f"{candidate.more}: cannot be kept in a preset; give it as KEY=VALUE or as a list")
