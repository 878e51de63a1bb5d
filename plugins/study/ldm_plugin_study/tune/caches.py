"""Caches of features as candidates of a tuning. Imports no torch by itself."""

from __future__ import annotations

import attrs

from ldm_core.config import documents
from ldm_core.errors import ConfigError, quoted

KNOBS = {"deep_cache": "interval", "first_block_cache": "threshold"}
"""The adapters that keep features from step to step, and the setting of each that is tried."""
LEAST = 8
"""Steps below which a cache by a threshold is not tried: too few lie near each other."""
FULL = 3
"""Steps that compute all, below which a cache with most of them at one place is not tried: there is no most of two."""


@attrs.frozen
class Cache:
    """The adapter `use` with its knob at `value`. `center`: its full steps are dense around this share of the run, by
    the quadratic schedule; None: they lie at equal distances."""

    use: str
    value: float
    center: float | None = None

    @property
    def name(self) -> str:
        """A name, of a folder too."""
        return f"{self.use}{self.value:g}" + ("" if self.center is None else f"at{self.center:g}")

    @property
    def label(self) -> str:
        """The name for a reader."""
        return f"{self.use} {self.value:g}" + ("" if self.center is None else f" dense at {self.center:g}")

    @property
    def row(self) -> str:
        """The row of a recipe's list of adapters, as YAML."""
        dense = "" if self.center is None else f", schedule: quadratic, center: {self.center:g}"
        return f"{{use: {self.use}, {KNOBS[self.use]}: {self.value:g}{dense}}}"

    def fits(self, steps: int) -> bool:
        """False where so few steps have nothing to keep."""
        if KNOBS[self.use] != "interval":
            return steps >= LEAST
        return (2 if self.center is None else FULL) * self.value <= steps


USUAL: tuple[Cache | None, ...] = (
    None,
    Cache("deep_cache", 2),
    Cache("deep_cache", 3),
    Cache("deep_cache", 3, center=0.0),
    Cache("first_block_cache", 0.1),
    Cache("first_block_cache", 0.3),
)
"""The caches that are tried beside none."""


def cache_of(text: str) -> Cache | None:
    """The cache of ``deep_cache=3``, or of ``deep_cache=3@0``, dense at the begin; None for ``none``. ConfigError with
    the known ones."""
    if text == "none":
        return None
    use, _, number = text.partition("=")
    number, dense, place = number.partition("@")
    value, center = _number(number), _number(place) if dense else None
    wrong = value is None or (dense and (center is None or KNOBS.get(use) != "interval"))
    if use not in KNOBS or value is None or wrong:
        known = "none, deep_cache=INTERVAL, deep_cache=INTERVAL@CENTER, first_block_cache=THRESHOLD"
        raise ConfigError(f"cache: expected {known}, got {quoted(text, 60)}; all else by --try 'adapters=[...]'")
    return Cache(use, value, center)


def _number(text: str) -> int | float | None:
    """The number in words of YAML; None for anything else."""
    try:
        value = documents.parse_yaml(text or "null", "the number")
    except ConfigError:
        return None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value
