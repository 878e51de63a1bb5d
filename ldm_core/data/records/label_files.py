"""Text files beside pictures that hold labels of boxes (YOLO's) and no captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldm_core.data.records.store import Sample, Store

_LOOKED_AT = 8
_MOST = 1 << 16  # bytes of such a file
_BOX = re.compile(rb"\s*\d+(?:\s+-?\d*\.?\d+(?:[eE][-+]?\d+)?){4,}\s*")  # a class, and its box or outline


def are_box_labels(store: Store, samples: Sequence[Sample]) -> bool:
    """True if the ``.txt`` of the samples are labels of boxes: every line of the few that are opened."""
    having = [s for s in samples if "txt" in s.parts and 0 < store.size(s, "txt") <= _MOST]
    few = having[:: max(1, len(having) // _LOOKED_AT)][:_LOOKED_AT]
    texts = [text.strip() for text in store.fetch_many([(s, "txt") for s in few]) if text and text.strip()]
    return bool(texts) and all(_BOX.fullmatch(line) for text in texts for line in text.splitlines())
