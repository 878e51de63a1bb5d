"""The metrics of a request: made of their names and settings, with their answers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.catalog import Catalog
from ldm_core.config import overrides
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import MetricAnswers, MetricConfig, Pictures, Rows, Site, configs
from ldm_core.errors import ComponentError, ConfigError, ContractError, DataError, suggest
from ldm_core.model.conformance.breaches import Named, inside, named
from ldm_core.model.parts import make
from ldm_core.recipe.recipe import Part


@attrs.frozen(eq=False)
class Asked:
    """A metric under its `name` in the request, and its part."""

    name: str
    part: Part
    metric: Any
    called: Named

    @property
    def config(self) -> MetricConfig:
        """The answers of its config."""
        return configs.of(MetricConfig, self.part.config)

    @property
    def answers(self) -> MetricAnswers:
        """Its own answers."""
        return configs.of(MetricAnswers, self.metric)

    @property
    def source(self) -> str:
        """Everything that decides its rows."""
        return str(self.metric.source)

    @property
    def least(self) -> int:
        """The smallest number of pictures on either side."""
        return int(self.answers.least)

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.answers.label or self.name

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """The rows of some pictures. ContractError if they are no rows, DataError if they are not finite."""
        with torch.no_grad(), inside(self.called, "measure"):
            rows = self.metric.measure(pictures)
        count = len(pictures.images)
        for name, value in rows.items():
            if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.shape[:1] != (count,):
                raise ContractError(
                    f"{self.called} breaks its contract: measure gives '{name}' as "
                    f"{type(value).__name__} {np.shape(value)}; expected: an array of numbers ({count}, ...)"
                )
            if value.dtype.kind in "fc" and not np.isfinite(value).all():
                bad = int(np.flatnonzero(~np.isfinite(value).reshape(count, -1).all(1))[0])
                place = pictures.places[bad] if len(pictures.places) else bad
                raise DataError(f"metric '{self.name}': the row of picture {place} is not finite ('{name}')")
        return dict(rows)

    def values(self, own: Rows, against: Rows | None) -> dict[str, float]:
        """The numbers of two sides."""
        with torch.no_grad():
            return {name: float(value) for name, value in self.metric.values(own, against).items()}

    def plain(self) -> dict[str, Any]:
        """Its settings for the protocol."""
        return {"use": self.part.use, **unstructure(self.part.config)}


def asked(
    names: Sequence[str], settings: Iterable[str], site: Site, catalog: Catalog, device: torch.device
) -> list[Asked]:
    """Make the metrics of `names`, each a component's or preset's, or ``NAME:COMPONENT`` to have one twice.

    `settings` are lines ``NAME.key=value``. All mistakes are one ConfigError.
    """
    by_name = {each.partition(":")[0]: each.partition(":")[2] or each for each in names}
    if not names or not all(by_name) or len(by_name) < len(names):
        raise ConfigError("metrics: expected different names, separated by commas, such as fd,kid")
    plain: dict[str, Any] = {name: {} for name in by_name}
    overrides.apply_overrides(plain, settings, by_name)
    made: list[Asked] = []
    problems: list[str] = []
    for name, component in by_name.items():
        try:
            made.append(_made(name, component, plain[name], site, catalog))
        except ConfigError as error:
            problems += error.problems
        except ComponentError as error:
            problems.append(f"metrics: {error}")
    if problems:
        raise ConfigError(problems)
    for each in made:
        if isinstance(each.metric, torch.nn.Module):
            each.metric.to(device).eval().requires_grad_(False)
    return made


def _made(name: str, component: str, settings: Mapping[str, Any], site: Site, catalog: Catalog) -> Asked:
    entry, preset = catalog.get("metric", component)
    base = {} if preset is None else unstructure(preset)
    config: Any = structure({**base, **settings}, entry.component.config, name)
    if lines := [f"{name}: {line}" for line in configs.of(MetricConfig, config).check(site)]:
        raise ConfigError(lines)
    part = Part(kind="metric", use=entry.component.name, config=config, asked=component)
    try:
        return Asked(name, part, make(part, site, catalog), named(part, catalog))
    except ConfigError as error:
        raise ConfigError([line if line.startswith(name) else f"{name}: {line}" for line in error.problems]) from None


def divided(settings: Iterable[str], names: Iterable[str], others: Sequence[str]) -> dict[str, list[str]]:
    """Settings by their first word: those of metrics under "", the `others` each under its own; ConfigError for an
    unknown one."""
    metrics = {name.partition(":")[0] for name in names}
    found: dict[str, list[str]] = {key: [] for key in ("", *others)}
    problems = []
    for line in settings:
        first = line.partition("=")[0].partition(".")[0].strip()
        if first in metrics:
            found[""].append(line)
        elif first in others:
            found[first].append(line)
        else:
            known = [*sorted(metrics), *others]
            problems.append(f"{first}: unknown{suggest(first, known)} (settings are of {', '.join(known)})")
    if problems:
        raise ConfigError(problems)
    return found
