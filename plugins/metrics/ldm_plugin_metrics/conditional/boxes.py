"""Boxes of a detector beside those that were asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldm_core.contracts import Metric, Pictures, Rows, Site
from ldm_core.errors import DataError
from ldm_plugin_metrics.conditional.config import BoxFidelityConfig

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The overlaps from which a detection is right: 0.5 to 0.95, as COCO has them."""
_RECALLS = np.linspace(0, 1, 101)


class Detections(NamedTuple):
    """A detector's answer to one picture: `boxes` (N, 4) x, y, w, h in [0, 1], `classes` (N,) of the data, `scores`
    (N,)."""

    boxes: NDArray[Any]
    classes: NDArray[Any]
    scores: NDArray[Any]


class BoxFidelity(Metric):
    """The agreement of detected boxes with those asked for, in COCO's way; subclass it for a detector of your own.

    A detection is right at a threshold if it overlaps a box of its class, which no surer detection of the picture has
    taken, by at least that much: the area of their intersection over that of their union. `box_ap` is the area under
    precision over recall, at 101 recalls, over all pictures; averaged over the classes asked for and over thresholds
    from 0.5 to 0.95. `box_ap50` is that of 0.5 alone. Detections of equal scores count together, so that no order of
    pictures matters. `box_iou` is the mean, over the boxes asked for, of the largest overlap with a detection of the
    class at `confidence` or above. Source: Lin et al. 2014, arXiv 1405.0312, and its published evaluation.
    """

    name = "box_score"
    source = ""
    least = 1

    def __init__(self, config: BoxFidelityConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        limits = f"at most {config.most}, sure from {config.confidence:g}"
        self.source = f"{self.source}, {limits}, keys {config.boxes} and {config.labels}"

    @abstractmethod
    def detect(self, pictures: Pictures) -> Sequence[Detections]:
        """The detections of each picture, in any order."""
        ...

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """The `most` detections (B, D): scores, classes (-1 = none) and hits by threshold (B, D, 10). The classes
        asked for (B, D), -1 = none, the number of boxes (B) and their overlaps added up (B)."""
        config = self.config
        asked = [_array(each, (-1, 4), np.float64) for each in pictures.examples[config.boxes]]
        classes = [_array(each, (-1,), np.int64) for each in pictures.examples[config.labels]]
        rows: list[dict[str, Any]] = []
        for i, found in enumerate(self.detect(pictures)):
            if len(asked[i]) != len(classes[i]) or len(asked[i]) > config.most:
                raise DataError(
                    f"{self.name}: a picture has {len(asked[i])} boxes and {len(classes[i])} classes; expected one "
                    f"class a box and at most {config.most} (`most`)"
                )
            rows.append(self._row(asked[i], classes[i], found))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, asked: NDArray[Any], classes: NDArray[Any], found: Detections) -> dict[str, Any]:
        most = self.config.most
        order = np.argsort(-np.asarray(found.scores, np.float64), kind="stable")[:most]
        boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)[order]
        scores, kinds = (np.asarray(each)[order] for each in (found.scores, found.classes))
        overlap = np.where(kinds[:, None] == classes[None], overlaps(boxes, asked), 0.0)
        hits = np.stack([matched(overlap, threshold) for threshold in THRESHOLDS], axis=1)
        sure = overlap[scores >= self.config.confidence]
        return {
            "scores": _padded(scores, most, 0.0, np.float64),
            "classes": _padded(kinds, most, -1, np.int32),
            "hits": _padded(hits, most, False, np.bool_),
            "asked": _padded(classes, most, -1, np.int32),
            "boxes": np.int64(len(asked)),
            "overlap": np.float64(sure.max(axis=0).sum() if sure.size else 0.0),
        }

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """Two precisions and the overlap."""
        asked = np.asarray(own["asked"])
        if not len(asked):
            raise DataError(f"{self.name} needs 1 picture, and here are 0; give some")
        scores, overlap = np.asarray(own["scores"]), np.asarray(own["overlap"])
        if not (np.isfinite(scores).all() and np.isfinite(overlap).all()):
            raise DataError(f"{self.name}: a row is not finite; measure the pictures again")
        count = int(np.asarray(own["boxes"]).sum())
        if not count:
            raise DataError(f"{self.name}: no picture was asked for a box; give data with boxes")
        classes, hits = np.asarray(own["classes"]).ravel(), np.asarray(own["hits"]).reshape(-1, len(THRESHOLDS))
        wanted, counts = np.unique(asked[asked >= 0], return_counts=True)
        found = []
        for kind, number in zip(wanted, counts, strict=True):
            chosen = classes == kind
            found.append(precisions(scores.ravel()[chosen], hits[chosen], int(number)))
        each = np.mean(found, axis=0)
        return {"box_ap": float(each.mean()), "box_ap50": float(each[0]), "box_iou": float(overlap.sum() / count)}


def overlaps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes x, y, w, h; 0 of boxes without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    both = np.clip(high - low, 0, None).prod(axis=2)
    union = a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1)[None] - both
    share: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return np.minimum(share, 1.0)


def matched(overlap: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """The detections (N,) that are right, for their overlaps (N, M), the surest first: each takes the free box that it
    overlaps most, by the threshold or more."""
    free, right = np.ones(overlap.shape[1], bool), np.zeros(len(overlap), bool)
    for i, row in enumerate(overlap if overlap.shape[1] else ()):
        best = int(np.where(free, row, -1.0).argmax())
        if free[best] and row[best] >= threshold:
            free[best], right[i] = False, True
    return right


def precisions(scores: NDArray[Any], hits: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """The average precision of one class by threshold (T,): `hits` (N, T) of detections with `scores` (N,), for `count`
    boxes asked for."""
    if not len(scores):
        return np.zeros(hits.shape[1])
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order], axis=0)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    recall, precision = right[ends] / count, right[ends] / (ends + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    found = []
    for t in range(hits.shape[1]):
        at = np.searchsorted(recall[:, t], _RECALLS, side="left")
        found.append(np.append(precision[:, t], 0.0)[at].mean())
    return np.asarray(found)


def _array(value: Any, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    plain = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return plain.reshape(shape).astype(kind)


def _padded(value: NDArray[Any], length: int, filler: Any, kind: Any) -> NDArray[Any]:
    out = np.full((length, *value.shape[1:]), filler, kind)
    out[: len(value)] = value
    return out
