"""Box scores by the detections of a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ldm_core import storage
from ldm_core.contracts import Pictures, Site
from ldm_core.errors import ConfigError, DataError, clean
from ldm_plugin_metrics.conditional.boxes import BoxFidelity, Detections
from ldm_plugin_metrics.conditional.config import BoxScoreConfig

_MOST_BYTES = 4 << 30


class BoxScore(BoxFidelity):
    """:class:`BoxFidelity` with detections in COCO's format of results, which most detectors write: a JSON list, or a
    JSON value a line, of ``{"image_id": 12, "category_id": 3, "bbox": [x, y, w, h], "score": 0.9}``.

    `image_id` is the picture's place in the set, as a number or the name of its file (``00000012.png``); `bbox` is in
    pixels. A picture without an entry has no detections. ConfigError for a file of another form.
    """

    def __init__(self, config: BoxScoreConfig, site: Site) -> None:
        super().__init__(config, site)
        if not config.detections:
            raise ConfigError("detections: path or URL of a detector's results in COCO's format is missing")
        self.where = storage.shown(config.detections)
        if storage.info(config.detections).size > _MOST_BYTES:
            raise ConfigError(f"detections: {self.where} has more than {_MOST_BYTES:,} bytes")
        data = storage.read_bytes(config.detections)
        kinds = {category: i for i, category in enumerate(config.categories)}
        self.found: dict[int, list[tuple[float, ...]]] = {}
        for number, entry in enumerate(self._entries(data), start=1):
            place, kind, row = self._entry(entry, number)
            if not kinds or kind in kinds:  # a category of no class counts nowhere
                self.found.setdefault(place, []).append((*row, float(kinds.get(kind, kind))))
        if not self.found:
            raise ConfigError(f"detections: {self.where} holds none; give a detector's results of these pictures")
        digest = hashlib.sha256(data).hexdigest()
        self.source = f"detections sha256 {digest}, categories {list(config.categories) or 'alike'}{self.source}"

    def detect(self, pictures: Pictures) -> Sequence[Detections]:
        """The file's detections, by place."""
        if len(pictures.places) != len(pictures.images):
            raise DataError(f"{self.name} finds detections by the places of pictures, and these have none; number them")
        height, width = pictures.images.shape[2:]
        size = np.array([width, height, width, height], np.float64)
        found = []
        for place in pictures.places:
            rows = np.array(self.found.get(int(place), []), np.float64).reshape(-1, 6)
            found.append(Detections(rows[:, :4] / size, rows[:, 5].astype(np.int64), rows[:, 4]))
        return found

    def _entries(self, data: bytes) -> list[Any]:
        try:
            text = data.decode("utf-8")
            if text.lstrip().startswith("["):
                found: list[Any] = json.loads(text)
                return found
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"detections: {self.where} is no JSON ({clean(error)}); give COCO's results") from None

    def _entry(self, entry: Any, number: int) -> tuple[int, int, tuple[float, ...]]:
        """Place, category, and x, y, w, h, score of an entry."""
        try:
            if not isinstance(entry, Mapping):
                raise TypeError
            name, kind = entry["image_id"], entry["category_id"]
            place = int(PurePosixPath(name).stem) if isinstance(name, str) else name
            row = tuple(float(each) for each in (*entry["bbox"], entry["score"]))
            whole = type(place) is int and type(kind) is int and place >= 0
            if not (whole and len(row) == 5 and all(map(math.isfinite, row)) and min(row[2:4]) >= 0):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"detections: {self.where}, entry {number}: expected image_id and category_id (whole numbers), bbox "
                f"[x, y, w, h] in pixels and score, got {clean(entry, 160)}"
            ) from None
        return place, kind, row
