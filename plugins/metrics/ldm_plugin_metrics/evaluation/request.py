"""A request: a place to evaluate, the metrics, and all settings."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from ldm_core import storage
from ldm_core.config.structure import digest
from ldm_core.contracts import Precision
from ldm_plugin_metrics.evaluation.fitting import Filter, Rule

IMAGES = 5000
"""Samples of a model, unless told."""
SETTINGS = ("pictures", "against", "training", "sampler", "guidance", "time_grid", "adapters", "sample")
"""The first words of settings, beside the names of metrics."""
OF_SAMPLING = SETTINGS[3:]


@attrs.frozen(kw_only=True)
class Request:
    """A place to evaluate, the metrics, the pictures to compare with. Places are paths, URLs or names of data.

    `settings` are lines KEY=VALUE: of a metric (``kid.subsets=10``), of data (``against.split=val``,
    ``pictures.white_level=4095``), of the sampling (``guidance.scale=3``).
    """

    place: str
    metrics: tuple[str, ...]
    against: str = ""
    training: str = ""
    settings: tuple[str, ...] = ()
    images: int | None = None
    reference_images: int | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: Rule = "crop"
    filter: Filter = "bicubic"
    steps: int | None = None
    seed: int = 0
    batch: int | None = None
    labels: Literal["data", "balanced"] = "data"
    precision: Precision | None = None
    preset: str = ""
    keep: bool = False
    bootstrap: int = 0
    save_statistics: str = ""
    cache: str = ""

    def name(self) -> str:
        """A name for the folder: of the place and of all settings of its rows."""
        kept = {k: v for k, v in attrs.asdict(self).items() if k not in _NO_ROWS}
        kept["precision"] = self.precision or "fp32"  # both names as before there were presets
        if not self.preset:
            del kept["preset"]
        word = storage.base_name(storage.shown(self.place).rstrip("/")).partition(".")[0]
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", word).strip("-") or "pictures"  # no shell reads anything into it
        return f"{plain}-{digest(kept)[:8]}"


_NO_ROWS = ("metrics", "bootstrap", "save_statistics", "cache", "keep")
