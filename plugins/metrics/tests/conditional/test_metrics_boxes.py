"""Boxes of a detector: closed forms, COCO's rule read directly, detections from a file, a detector of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_metrics.conditional.box_score import BoxScore
from ldm_plugin_metrics.conditional.boxes import BoxFidelity, Detections, overlaps
from ldm_plugin_metrics.conditional.config import BoxFidelityConfig, BoxScoreConfig

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import ConfigError, DataError
from ldm_core.testing import MetricSuite, batches
from ldm_core.testing.metrics.suite import Known
from ldm_core.testing.running import catalog_of

SITE = Site(size=(32, 32))


def written(folder: Path, entries: Sequence[Mapping[str, Any]], lines: bool = False) -> str:
    file = folder / "detections.json"
    file.write_text("\n".join(map(json.dumps, entries)) if lines else json.dumps(entries))
    return str(file)


def entry(place: int | str, kind: int, box: Sequence[float], score: float) -> dict[str, Any]:
    return {"image_id": place, "category_id": kind, "bbox": list(box), "score": score}


def asked(boxes: Sequence[Sequence[Sequence[float]]], kinds: Sequence[Sequence[int]]) -> Pictures:
    """Pictures of 100 pixels, with boxes in pixels."""
    examples = {
        "boxes": [torch.tensor(each, dtype=torch.float64).view(-1, 4) / 100 for each in boxes],
        "box_labels": [torch.tensor(each, dtype=torch.int64) for each in kinds],
    }
    return Pictures(torch.zeros(len(boxes), 3, 100, 100, dtype=torch.uint8), range(len(boxes)), examples)


def scored(folder: Path, entries: Sequence[Mapping[str, Any]], given: Pictures, **settings: Any) -> dict[str, float]:
    metric = BoxScore(BoxScoreConfig(detections=written(folder, entries), **settings), SITE)
    return dict(metric.values(metric.measure(given), None))


class TestBoxScoreConformance(MetricSuite):
    component = "box_score"

    @pytest.fixture(autouse=True)
    def _detections(self, tmp_path: Path) -> None:
        entries = []
        for place in range(32):
            example = batches.example(place, (32, 32))
            for i, (box, kind) in enumerate(zip(example["boxes"], example["box_labels"], strict=True)):
                shifted = (box * 32 + [0.5 * place / 8, 0, 0, 0]).tolist()
                entries.append(entry(place, int(kind), shifted, 0.9 - 0.01 * place - 0.1 * i))
        self.settings = {"detections": written(tmp_path, entries)}  # type: ignore[misc]

    def known(self) -> Known:
        """Of one class and two boxes, the surest of two detections is right up to 0.5, and the other one never."""
        hits = np.zeros((1, 2, 10), bool)
        hits[0, 0, 0] = True
        rows = {
            "scores": np.array([[0.9, 0.4]]),
            "classes": np.array([[3, 3]], np.int32),
            "hits": hits,
            "asked": np.array([[3, 3]], np.int32),
            "boxes": np.array([2]),
            "overlap": np.array([0.55]),
        }
        return Known(rows, None, {"box_ap": 51 / 1010, "box_ap50": 51 / 101, "box_iou": 0.275})


def test_boxes_of_the_pictures_themselves_have_the_highest_score(tmp_path: Path) -> None:
    given = asked([[[10, 10, 20, 30], [50, 50, 40, 40]], [[0, 0, 100, 50]]], [[0, 2], [1]])
    entries = [
        entry("00000000.png", 0, [10, 10, 20, 30], 0.9),
        entry(0, 2, [50, 50, 40, 40], 0.8),
        entry(1, 1, [0, 0, 100, 50], 0.7),
    ]
    assert scored(tmp_path, entries, given) == {"box_ap": 1.0, "box_ap50": 1.0, "box_iou": 1.0}
    other = [{**each, "category_id": each["category_id"] + 10} for each in entries]
    assert scored(tmp_path, other, given)["box_ap"] == 0.0
    assert scored(tmp_path, other, given, categories=(10, 11, 12))["box_ap"] == 1.0


def test_a_shifted_box_has_its_overlap_and_the_thresholds_below_it(tmp_path: Path) -> None:
    """40 x 40 shifted by 10: 1200 of 2000 pixels, right at 0.5, 0.55 and 0.6."""
    given = asked([[[20, 20, 40, 40]]], [[0]])
    found = scored(tmp_path, [entry(0, 0, [30, 20, 40, 40], 0.9)], given)
    assert found == pytest.approx({"box_ap": 0.3, "box_ap50": 1.0, "box_iou": 0.6})
    unsure = scored(tmp_path, [entry(0, 0, [30, 20, 40, 40], 0.4)], given)
    assert unsure == pytest.approx({"box_ap": 0.3, "box_ap50": 1.0, "box_iou": 0.0})


def test_two_detections_of_one_box_count_once(tmp_path: Path) -> None:
    """The surer one is right, the second one wrong: precision 1 up to half of the recall, as only one box is found."""
    given = asked([[[20, 20, 40, 40], [70, 70, 20, 20]]], [[0, 0]])
    entries = [entry(0, 0, [20, 20, 40, 40], 0.9), entry(0, 0, [21, 20, 40, 40], 0.8)]
    assert scored(tmp_path, entries, given)["box_ap50"] == pytest.approx(51 / 101)


def direct(places: int, entries: Sequence[Mapping[str, Any]], given: Pictures, threshold: float) -> float:
    """COCO's rule, read one detection and one recall at a time."""
    found = []
    for kind in sorted({int(k) for each in given.examples["box_labels"] for k in each}):
        mine = sorted((e for e in entries if e["category_id"] == kind), key=lambda e: -e["score"])
        taken: set[tuple[int, int]] = set()
        right: list[bool] = []
        for each in mine:
            place = each["image_id"]
            boxes = np.asarray(given.examples["boxes"][place]) * 100
            kinds = np.asarray(given.examples["box_labels"][place])
            options = [
                (overlaps(np.array([each["bbox"]]), boxes[j : j + 1])[0, 0], j)
                for j in range(len(boxes))
                if kinds[j] == kind and (place, j) not in taken
            ]
            best = max(options, default=(0.0, -1))
            right.append(best[0] >= threshold)
            if right[-1]:
                taken.add((place, best[1]))
        count = sum(int((np.asarray(each) == kind).sum()) for each in given.examples["box_labels"])
        points = [(sum(right[: n + 1]) / count, sum(right[: n + 1]) / (n + 1)) for n in range(len(right))]
        levels = np.linspace(0, 1, 101)
        found.append(np.mean([max((p for r, p in points if r >= level), default=0.0) for level in levels]))
    return float(np.mean(found))


def test_it_is_the_rule_of_coco_read_directly(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    boxes, kinds, entries = [], [], []
    for place in range(12):
        count = int(g.integers(0, 5))
        mine = np.concatenate([g.uniform(0, 50, (count, 2)), g.uniform(10, 50, (count, 2))], 1)
        boxes.append(mine.tolist())
        kinds.append(g.integers(0, 3, count).tolist())
        for box, kind in zip(mine, kinds[-1], strict=True):
            near = box + g.normal(0, 4, 4)
            seen = int(kind if g.random() < 0.8 else (kind + 1) % 3)
            entries.append(entry(place, seen, near.clip(0.5).tolist(), float(g.random())))
            if g.random() < 0.5:
                entries.append(entry(place, int(kind), (box + 1).tolist(), float(g.random())))
        entries.append(entry(place, int(g.integers(0, 3)), [5, 5, 30, 30], float(g.random())))
    given = asked(boxes, kinds)
    found = scored(tmp_path, entries, given)
    every = [direct(12, entries, given, 0.5 + 0.05 * i) for i in range(10)]
    assert found["box_ap"] == pytest.approx(np.mean(every), abs=1e-9)
    assert found["box_ap50"] == pytest.approx(every[0], abs=1e-9)
    assert 0.1 < found["box_ap"] < found["box_ap50"] < 0.95


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    good = entry(0, 0, [1, 1, 2, 2], 0.5)
    lines = BoxScoreConfig(detections=written(tmp_path, [good, good], lines=True))
    assert len(BoxScore(lines, SITE).found[0]) == 2
    for wrong, said in (
        ({**good, "image_id": "cat.png"}, "entry 2"),
        ({**good, "bbox": [1, 1, 2]}, "entry 2"),
        ({**good, "bbox": [1, 1, -2, 2]}, "entry 2"),
        ({**good, "score": float("nan")}, "entry 2"),
        ({"image_id": 0}, "expected image_id and category_id"),
    ):
        with pytest.raises(ConfigError, match=said):
            BoxScore(BoxScoreConfig(detections=written(tmp_path, [good, wrong])), SITE)
    with pytest.raises(ConfigError, match="holds none"):
        BoxScore(BoxScoreConfig(detections=written(tmp_path, [])), SITE)
    (tmp_path / "detections.json").write_text("a picture of a cat")
    with pytest.raises(ConfigError, match="no JSON"):
        BoxScore(BoxScoreConfig(detections=str(tmp_path / "detections.json")), SITE)
    assert ["no file" in row for row in BoxScoreConfig(detections=str(tmp_path / "none.json")).check(SITE)] == [True]


def test_pictures_without_any_box_have_no_score(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture was asked for a box"):
        scored(tmp_path, [entry(0, 0, [1, 1, 2, 2], 0.5)], asked([[]], [[]]))


@attrs.frozen(kw_only=True)
class BrightConfig(BoxFidelityConfig):
    """A detector in a file of its own."""


class Bright(BoxFidelity):
    """Takes the bright pixels for one box of class 0."""

    name, source = "bright", "bounds of pixels above 200"

    def detect(self, pictures: Pictures) -> list[Detections]:
        """One box a picture."""
        found = []
        height, width = pictures.images.shape[2:]
        for image in pictures.images.amin(1).cpu().numpy():
            y, x = np.nonzero(image > 200)
            low, high = (np.array([f(x, initial=0), f(y, initial=0)]) for f in (np.min, np.max))
            if len(x):
                low = np.array([x.min(), y.min()])
            box = np.concatenate([low, high + 1 - low]) / [width, height, width, height]
            found.append(Detections(box[None], np.array([0]), np.array([0.9])))
        return found


class TestADetectorOfOnesOwn(MetricSuite):
    component = "bright"
    catalog = catalog_of("metric", "bright", BrightConfig, Bright)
    settings: ClassVar[Mapping[str, Any]] = {}

    def known(self) -> Known:
        """As of any detector."""
        return TestBoxScoreConformance().known()


def test_a_detector_of_ones_own_is_asked_for_each_picture() -> None:
    given = asked([[[10, 20, 30, 40]], [[50, 10, 20, 20]]], [[0], [0]])
    images = given.images.clone()
    images[0, :, 20:60, 10:40] = 255
    images[1, :, 10:30, 50:75] = 255  # 25 wide, and 20 were asked for
    metric = Bright(BrightConfig(), SITE)
    found = metric.values(metric.measure(attrs.evolve(given, images=images)), None)
    assert found["box_iou"] == pytest.approx((1 + 0.8) / 2)
    assert found["box_ap50"] == 1.0
