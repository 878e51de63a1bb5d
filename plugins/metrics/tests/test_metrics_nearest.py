"""Nearest training pictures: closed forms, a direct reading of the definition, and planted copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ldm_plugin_metrics.model.config import NearestConfig
from ldm_plugin_metrics.model.nearest import Nearest
from numpy.typing import NDArray

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import DataError
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

SITE = Site(size=(32, 32))


def smooth(count: int, seed: int) -> NDArray[np.uint8]:
    """Pictures of a few waves."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 32
    waves = sum(
        g.normal(0, 40, (count, 3, 1, 1)) * np.cos(2 * np.pi * (i * y + j * x) + g.uniform(0, 6, (count, 1, 1, 1)))
        for i in range(3)
        for j in range(3)
    )
    return np.clip(127 + waves, 0, 255).astype(np.uint8)


def rows(metric: Nearest, images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
    return metric.measure(Pictures(torch.from_numpy(images), range(len(images))))


class TestNearestConformance(MetricSuite):
    component = "nearest"
    settings: ClassVar[Mapping[str, Any]] = {"size": 1}

    def known(self) -> Known:
        """Training pictures at 0, 3 and beside 3; one picture near the first, one far beyond the last."""
        training = np.array([[0, 0, 0], [3, 0, 0], [3, 4, 0]], np.float32)
        own = np.array([[0.5, 0, 0], [3, 9, 0]], np.float32)
        values = {"nearest": 2.75, "nearest_training": 3.5, "memorised": 0.5, "authentic": 0.5}
        return Known({"features": own}, {"features": training}, values)


class TestNearestByFeatures(MetricSuite):
    component = "nearest"
    settings: ClassVar[Mapping[str, Any]] = {"network": "test_resnet", "random_seed": 1, "layer": "conv1.0", "size": 32}

    def known(self) -> Known:
        """The same distances in 16 dimensions."""
        known = TestNearestConformance().known()
        assert known.against is not None
        wide = [np.pad(np.asarray(each["features"]), ((0, 0), (0, 13))) for each in (known.own, known.against)]
        return Known({"features": wide[0]}, {"features": wide[1]}, known.values)


def test_it_is_the_definition_read_directly() -> None:
    distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    metric = Nearest(NearestConfig(size=8, threshold=1.1), SITE)
    own, training = rows(metric, smooth(40, 1)), rows(metric, smooth(90, 2))
    between = distance.cdist(own["features"], training["features"])
    within = distance.cdist(training["features"], training["features"]) + np.diag(np.full(90, np.inf))
    d, r = between.min(1), within.min(1)[between.argmin(1)]
    found = metric.values(own, training)
    assert found == pytest.approx(
        {
            "nearest": d.mean(),
            "nearest_training": r.mean(),
            "memorised": (d <= 1.1 * r).mean(),
            "authentic": (d > r).mean(),
        },
        rel=1e-6,
    )
    assert 0 < found["memorised"] < 1


def test_a_pixel_distance_is_the_root_of_the_mean_squared_difference() -> None:
    metric = Nearest(NearestConfig(), SITE)
    a, b = smooth(1, 1), smooth(1, 2)
    features = [rows(metric, each)["features"].astype(np.float64) for each in (a, b)]
    expected = np.sqrt(np.square(a.astype(float) - b).mean())
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx(expected, rel=1e-6)


def test_copies_are_found_among_pictures_of_their_own() -> None:
    """Ten copies, to rounding, among 40 samples of the same distribution as 200 training pictures."""
    training, fresh = smooth(200, 1), smooth(30, 2)
    noise = np.random.default_rng(3).integers(-1, 2, (10, 3, 32, 32))
    copies = np.clip(training[:10].astype(int) + noise, 0, 255).astype(np.uint8)
    metric = Nearest(NearestConfig(), SITE)
    against = rows(metric, training)
    with_copies = metric.values(rows(metric, np.concatenate([fresh, copies])), against)
    without = metric.values(rows(metric, fresh), against)
    assert without["memorised"] == 0 and without["authentic"] > 0.4
    assert with_copies["memorised"] == 0.25
    assert with_copies["nearest"] < without["nearest"]


def test_a_copy_of_a_picture_that_is_twice_in_the_training_set_is_found() -> None:
    training = smooth(20, 1)
    metric = Nearest(NearestConfig(), SITE)
    twice = rows(metric, np.concatenate([training, training]))
    assert metric.values(rows(metric, training), twice)["memorised"] == 1.0
    assert metric.values(rows(metric, smooth(20, 2)), twice)["memorised"] == 0.0


def test_a_training_set_of_one_picture_is_refused() -> None:
    metric = Nearest(NearestConfig(), SITE)
    same = rows(metric, np.repeat(smooth(1, 1), 5, 0))
    with pytest.raises(DataError, match="all equal"):
        metric.values(rows(metric, smooth(3, 2)), same)
    with pytest.raises(DataError, match="2 pictures"):
        metric.values(rows(metric, smooth(3, 2)), rows(metric, smooth(1, 1)))
