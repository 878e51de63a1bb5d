"""Label maps of a segmenter: closed forms, maps from files, a segmenter of one's own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_metrics.conditional.config import LabelMapConfig, MapFidelityConfig
from ldm_plugin_metrics.conditional.label_maps import LabelMapIoU, MapFidelity
from numpy.typing import NDArray
from PIL import Image

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import ConfigError, DataError
from ldm_core.testing import MetricSuite, batches
from ldm_core.testing.metrics.suite import Known
from ldm_core.testing.running import catalog_of

SITE = Site(size=(4, 4))


def written(folder: Path, maps: Mapping[int, NDArray[Any]]) -> str:
    folder.mkdir(exist_ok=True)
    for place, labels in maps.items():
        buffer = io.BytesIO()
        Image.fromarray(labels.astype(np.uint8)).save(buffer, "PNG")
        (folder / f"{place:05d}.png").write_bytes(buffer.getvalue())
    return str(folder)


def asked(*maps: NDArray[Any]) -> Pictures:
    examples = {"segmentation": torch.from_numpy(np.stack(maps).astype(np.int64))}
    return Pictures(torch.zeros(len(maps), 3, *maps[0].shape, dtype=torch.uint8), range(len(maps)), examples)


class TestLabelMapConformance(MetricSuite):
    component = "label_map_iou"
    sizes = ((32, 32),)

    @pytest.fixture(autouse=True)
    def _maps(self, tmp_path: Path) -> None:
        maps = {place: batches.example(place, (32, 32))["segmentation"] // 2 * 2 for place in range(32)}
        self.settings = {"maps": written(tmp_path / "maps", maps), "classes": 4}  # type: ignore[misc]

    def known(self) -> Known:
        """Two classes with 3 of 5 and 2 of 4 pixels in both maps, and one in neither."""
        rows = {
            "asked": np.array([[4, 3, 0], [0, 0, 0]]),
            "seen": np.array([[0, 0, 0], [4, 3, 0]]),
            "both": np.array([[1, 2, 0], [2, 0, 0]]),
        }
        return Known(rows, None, {"label_map_iou": (3 / 5 + 2 / 4) / 2, "label_map_accuracy": 5 / 7})


def test_maps_from_files_have_the_overlap_of_their_pixels(tmp_path: Path) -> None:
    one = np.repeat([[0, 0, 1, 1]], 4, 0)
    other = np.repeat([[0, 1, 1, 1]], 4, 0)
    metric = LabelMapIoU(LabelMapConfig(maps=written(tmp_path, {0: other, 1: one}), classes=3), SITE)
    found = metric.values(metric.sums(metric.measure(asked(one, one))), None)
    assert found == pytest.approx({"label_map_iou": (12 / 16 + 16 / 20) / 2, "label_map_accuracy": 28 / 32})


def test_ignored_labels_are_left_out(tmp_path: Path) -> None:
    one = np.repeat([[0, 255, 1, 255]], 4, 0)
    seen = np.repeat([[0, 1, 1, 0]], 4, 0)
    folder = written(tmp_path, {0: seen})
    metric = LabelMapIoU(LabelMapConfig(maps=folder, classes=2, ignored=(255,)), SITE)
    assert metric.values(metric.sums(metric.measure(asked(one))), None)["label_map_iou"] == 1.0
    with pytest.raises(DataError, match="class 255, and there are 2"):
        LabelMapIoU(LabelMapConfig(maps=folder, classes=2), SITE).measure(asked(one))
    everything = metric.sums(metric.measure(asked(np.full((4, 4), 255))))
    with pytest.raises(DataError, match="no pixel was asked for"):
        metric.values(everything, None)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    one = np.zeros((4, 4))
    config = LabelMapConfig(maps=written(tmp_path / "maps", {0: one, 1: np.zeros((4, 6))}), classes=2)
    metric = LabelMapIoU(config, SITE)
    with pytest.raises(DataError, match=r"no map of picture 2 \(00002\.png\)"):
        metric.measure(asked(one, one, one))
    with pytest.raises(DataError, match=r"\(4, 6\)"):
        metric.measure(asked(one, one))
    with pytest.raises(ConfigError, match="no folder"):
        LabelMapIoU(LabelMapConfig(maps=str(tmp_path / "none"), classes=2), SITE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cat.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="named by a number"):
        LabelMapIoU(LabelMapConfig(maps=str(tmp_path / "empty"), classes=2), SITE)
    assert len(list(LabelMapConfig().check(SITE))) == 2


@attrs.frozen(kw_only=True)
class LevelsConfig(MapFidelityConfig):
    """A segmenter in a file of its own."""


class Levels(MapFidelity):
    """Takes a quarter of the levels of grey for a class."""

    name, source = "levels", "level // 64"

    def segment(self, pictures: Pictures) -> NDArray[Any]:
        """(B, H, W), from 0 to 3."""
        return (pictures.images[:, 0] // 64).cpu().numpy()


class TestASegmenterOfOnesOwn(MetricSuite):
    component = "levels"
    catalog = catalog_of("metric", "levels", LevelsConfig, Levels)
    settings: ClassVar[Mapping[str, Any]] = {"classes": 4}

    def known(self) -> Known:
        """As of any segmenter."""
        return TestLabelMapConformance().known()
