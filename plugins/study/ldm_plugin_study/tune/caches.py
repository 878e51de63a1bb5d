"""Caches of features as candidates of a tuning. Imports no torch by itself."""

from __future__ import annotations

import attrs

from ldm_core.config import documents
from ldm_core.errors import ConfigError, quoted

KNOBS = {"deep_cache": "interval", "first_block_cache": "threshold"}
"""The adapters that keep features from step to step, and the setting of each that is tried."""
LEAST = 8
"""Steps below which a cache by a threshold is not tried: too few lie near each other."""


@attrs.frozen
class Cache:
    """The adapter `use` with its knob at `value`."""

    use: str
    value: float

    @property
    def name(self) -> str:
        """A name, of a folder too."""
        return f"{self.use}{self.value:g}"

    @property
    def label(self) -> str:
        """The name for a reader."""
        return f"{self.use} {self.value:g}"

    @property
    def row(self) -> str:
        """The row of a recipe's list of adapters, as YAML."""
        return f"{{use: {self.use}, {KNOBS[self.use]}: {self.value:g}}}"

    def fits(self, steps: int) -> bool:
        """False where so few steps have nothing to keep."""
        return 2 * self.value <= steps if KNOBS[self.use] == "interval" else steps >= LEAST


USUAL: tuple[Cache | None, ...] = (
    None,
    Cache("deep_cache", 2),
    Cache("deep_cache", 3),
    Cache("first_block_cache", 0.1),
    Cache("first_block_cache", 0.3),
)
"""The caches that are tried beside none."""


def cache_of(text: str) -> Cache | None:
    """The cache of ``deep_cache=3``; None for ``none``. ConfigError with the known ones."""
    if text == "none":
        return None
    use, _, number = text.partition("=")
    try:
        value = documents.parse_yaml(number or "null", "the number")
    except ConfigError:
        value = None
    if use not in KNOBS or isinstance(value, bool) or not isinstance(value, int | float):
        known = ", ".join(f"{name}={KNOBS[name].upper()}" for name in KNOBS)
        raise ConfigError(f"cache: expected none, {known}, got {quoted(text, 60)}; all else by --try 'adapters=[...]'")
    return Cache(use, value)
