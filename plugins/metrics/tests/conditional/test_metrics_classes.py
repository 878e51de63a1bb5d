"""Accuracy by a given classifier: closed forms, timm's own answer, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_metrics.conditional.class_accuracy import ClassAccuracy
from ldm_plugin_metrics.conditional.config import ClassAccuracyConfig
from torch import nn

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.nn.torchvision_operators import importable
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

SITE = Site(size=(32, 32))
NAME = "test_resnet"


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """A network of 12 classes whose answers depend on the picture."""
    with importable():
        timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = timm.create_model(NAME, num_classes=12)
        nn.init.normal_(network.get_parameter("fc.weight"))
    return network.eval()


@pytest.fixture(scope="module")
def saved(classifier: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its state, wrapped as training scripts save it."""
    file = tmp_path_factory.mktemp("classes") / "last.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in classifier.state_dict().items()}}, file)
    return str(file)


def pictures(count: int = 24) -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8).repeat(5, 2).repeat(5, 3)
    labels = torch.arange(count) % 12
    return Pictures(torch.from_numpy(images), range(count), {"class_label": labels})


def values(metric: ClassAccuracy, given: Pictures) -> Mapping[str, float]:
    return metric.values(metric.sums(metric.measure(given)), None)


class TestClassAccuracyConformance(MetricSuite):
    component = "class_accuracy"
    settings: ClassVar[Mapping[str, Any]] = {"network": NAME, "random_seed": 1, "classes": 7, "size": 32}

    def known(self) -> Known:
        """Of four pictures one is right at once, and three within five."""
        rows = {"class_accuracy": np.eye(4)[0], "class_accuracy_top5": np.array([1.0, 1, 1, 0])}
        return Known(rows, None, {"class_accuracy": 0.25, "class_accuracy_top5": 0.75})


def test_it_is_timms_own_answer(classifier: nn.Module, saved: str) -> None:
    """With timm's size, mean and deviation of the network, the whole picture scaled by torch's bicubic filter."""
    with importable():
        import timm
    about = timm.data.resolve_model_data_config(classifier)
    given = pictures()
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = nn.functional.interpolate(given.images.float(), about["input_size"][1:], mode="bicubic", antialias=True)
    with torch.no_grad():
        scores = classifier((x.clamp(0, 255) / 255 - mean) / std)
    first = scores.argsort(1, descending=True)
    wanted = given.examples["class_label"][:, None]
    found = ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=saved), SITE).measure(given)
    assert np.array_equal(found["class_accuracy"], (first[:, :1] == wanted).any(1).double())
    assert np.array_equal(found["class_accuracy_top5"], (first[:, :5] == wanted).any(1).double())
    assert 0 < found["class_accuracy_top5"].mean() < 1


def test_the_classes_that_it_sees_are_right_and_others_wrong(classifier: nn.Module, saved: str) -> None:
    given = pictures()
    metric = ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=saved, size=40), SITE)
    seen = metric.network.rows(attrs.evolve(given), "features").argmax(1)
    right = attrs.evolve(given, examples={"class_label": torch.from_numpy(seen)})
    assert values(metric, right) == {"class_accuracy": 1.0, "class_accuracy_top5": 1.0}
    assert values(metric, attrs.evolve(given, examples={"class_label": (seen + 1) % 12}))["class_accuracy"] == 0.0
    turned = ClassAccuracyConfig(network=NAME, weights=saved, size=40, outputs=tuple(range(11, -1, -1)))
    mapped = attrs.evolve(given, examples={"class_label": torch.from_numpy(11 - seen)})
    assert values(ClassAccuracy(turned, SITE), mapped)["class_accuracy"] == 1.0
    assert ClassAccuracy(turned, SITE).source != metric.source


def test_equal_scores_count_against_the_class(classifier: nn.Module, tmp_path: Path) -> None:
    """A network that says the same of every class is never right."""
    flat = {k: v * 0 if k.startswith("fc") else v for k, v in classifier.state_dict().items()}
    torch.save(flat, tmp_path / "flat.pth")
    metric = ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=str(tmp_path / "flat.pth"), size=32), SITE)
    assert values(metric, pictures()) == {"class_accuracy": 0.0, "class_accuracy_top5": 0.0}


def test_a_classifier_that_is_not_finite_gives_no_number(classifier: nn.Module, tmp_path: Path) -> None:
    broken = {k: v * float("nan") if k == "fc.bias" else v for k, v in classifier.state_dict().items()}
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises((CheckpointError, DataError), match="finite"):
        metric = ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=str(tmp_path / "broken.pth"), size=32), SITE)
        metric.measure(pictures())


def test_labels_that_do_not_fit_are_refused(saved: str) -> None:
    metric, given = ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=saved, size=32), SITE), pictures(2)
    for labels, said in (
        (torch.tensor([0, 12]), "class 12, and the classifier has 12"),
        (["cat", "dog"], "no number of a class"),
        (torch.tensor([0.5, 1.5]), "a whole number each"),
        (torch.zeros(2, 3, dtype=torch.int64), r"shape \(2, 3\)"),
    ):
        with pytest.raises(DataError, match=said):
            metric.measure(attrs.evolve(given, examples={"class_label": labels}))


def test_networks_without_a_classifier_are_refused(classifier: nn.Module, tmp_path: Path, saved: str) -> None:
    headless = tmp_path / "headless.pth"
    torch.save({k: v for k, v in classifier.state_dict().items() if not k.startswith("fc.")}, headless)
    with pytest.raises(CheckpointError, match=r"no classifier of test_resnet \(fc\)"):
        ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=str(headless)), SITE)
    with pytest.raises(ConfigError, match="path or URL"):
        ClassAccuracy(ClassAccuracyConfig(network=NAME), SITE)
    with pytest.raises(ConfigError, match="no output 12"):
        ClassAccuracy(ClassAccuracyConfig(network=NAME, weights=saved, outputs=(0, 12)), SITE)
    for config, said in (
        (ClassAccuracyConfig(network="inception"), "no classifier"),
        (ClassAccuracyConfig(network=NAME, layer="conv1"), "leave it out"),
        (ClassAccuracyConfig(network=NAME, random_seed=1), "random weights"),
    ):
        assert any(said in line for line in config.check(SITE)), said
