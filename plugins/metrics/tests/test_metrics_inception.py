"""FID's network and its metrics against torch-fidelity, with the same random weights on the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ldm_plugin_metrics.distances.base import by_content
from ldm_plugin_metrics.distances.config import (
    FDConfig,
    FIDConfig,
    InceptionScoreConfig,
    KIDConfig,
    PrecisionRecallConfig,
)
from ldm_plugin_metrics.distances.frechet import FID, FrechetDistance
from ldm_plugin_metrics.distances.inception_score import InceptionScore
from ldm_plugin_metrics.distances.kernel import KernelDistance
from ldm_plugin_metrics.distances.neighbours import PrecisionRecall
from ldm_plugin_metrics.networks import inception
from ldm_plugin_metrics.networks.config import NetworkConfig, WeightsConfig
from torch import Tensor

from ldm_core.contracts import Metric, MetricAnswers, Pictures, configs
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.nn.torchvision_operators import importable
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

FEW = {"random_seed": 1, "allow_few": True}
TWO_PARTS = {"random_seed": 1, "splits": 2}
COUNT = 8


@pytest.mark.slow
class TestFID(MetricSuite):
    component = "fid"
    settings = FEW
    count: ClassVar[int] = 4
    atol: ClassVar[float] = 1e-4

    def known(self) -> Known:
        """Two points of one spread: the means' distance, under the name of a network that is not FID's."""
        rows = np.zeros((2, 2048), np.float32)
        rows[0, 0] = 3.0
        return Known({"pool3": rows}, {"pool3": rows + np.float32(0.25)}, {"fd": 2048 / 16})


@pytest.mark.slow
class TestInceptionScore(MetricSuite):
    component = "inception_score"
    settings = TWO_PARTS
    count: ClassVar[int] = 4
    atol: ClassVar[float] = 1e-4

    def known(self) -> Known:
        """Equal pictures say nothing: 1."""
        return Known({"logits": np.tile(np.arange(1008, dtype=np.float32) / 100, (6, 1))}, None, {"inception_score": 1})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights that keep the size of what goes through them."""
    random = torch.Generator().manual_seed(0)
    network = inception.Inception(WeightsConfig(random_seed=0))
    state = {}
    for key, value in network.state_dict().items():
        drawn = torch.randn(value.shape, generator=random)
        spread = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        scale = ".bn." in key and key.endswith(("weight", "running_var"))
        state[key] = value if value.dtype == torch.int64 else 1 + 0.2 * drawn.clamp(-3, 3) if scale else spread * drawn
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, file)
    return str(file)


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Two sets of pictures, blurred noise of different contrast."""
    random = torch.Generator().manual_seed(1)
    found = []
    for contrast in (40, 70):
        coarse = torch.randn((COUNT, 3, 5, 5), generator=random) * contrast + 128
        fine = torch.nn.functional.interpolate(coarse, size=(32, 40), mode="bilinear")
        found.append(fine.clamp(0, 255).to(torch.uint8))
    return found[0], found[1]


@pytest.fixture(scope="module")
def oracle() -> Any:
    with importable():
        return pytest.importorskip("torch_fidelity", reason="torch-fidelity is the oracle of FID, KID, IS and PRC")


def measured(metric: Metric, *sets: Tensor) -> dict[str, float]:
    """The values of a metric of whole sets."""
    rows = [metric.measure(Pictures(images)) for images in sets]
    sums = configs.of(MetricAnswers, metric).sums
    sides = rows if sums is None else [sums(each) for each in rows]
    return dict(metric.values(sides[0], sides[1] if len(sides) > 1 else None))


NAMES = ["64", "192", "768", "2048", "logits_unbiased"]


@pytest.fixture(scope="module")
def networks(oracle: Any, weights: str) -> tuple[Any, list[inception.Inception]]:
    """Torch-fidelity's network with every tap, and ours with each."""
    extractor = oracle.feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    ours = [inception.Inception(NetworkConfig(weights=weights, layer=tap)) for tap in ("", "64", "192", "768")]
    return extractor("oracle", NAMES, feature_extractor_weights_path=weights), ours


@pytest.mark.parametrize("size", [(32, 40), (320, 299), pytest.param((299, 299), marks=pytest.mark.slow)])
def test_features_are_torch_fidelitys(networks: tuple[Any, list[inception.Inception]], size: tuple[int, int]) -> None:
    """Every tap, of small, large and fitting pictures."""
    theirs, ours = networks
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    expected = dict(zip(NAMES, theirs(images), strict=True))
    for network in ours:
        with torch.inference_mode():
            found = network(images)
        for name, value in found.items():
            wanted = expected[{"pool3": "2048", "logits": "logits_unbiased"}.get(name, name)]
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["64", pytest.param("", marks=pytest.mark.slow)])
def test_figures_are_torch_fidelitys(oracle: Any, weights: str, sets: tuple[Tensor, Tensor], layer: str) -> None:
    """Distance, KID, precision and recall of pictures, and of the last layer the score, within 1e-3 of each."""
    theirs = oracle.calculate_metrics(
        input1=Listed(sets[0]),
        input2=Listed(sets[1]),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=weights,
        **{f"feature_layer_{name}": layer or None for name in ("fid", "kid", "prc")},
        isc=not layer,
        isc_splits=1,
        fid=True,
        kid=True,
        kid_subsets=2,
        kid_subset_size=COUNT,
        prc=True,
        batch_size=10,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    given: dict[str, Any] = {"network": "inception", "weights": weights, "layer": layer}
    metrics = [
        FrechetDistance(FDConfig(**given, allow_few=True), SITE),
        KernelDistance(KIDConfig(**given, subsets=2, subset_size=COUNT), SITE),
        PrecisionRecall(PrecisionRecallConfig(**given), SITE),
    ]
    found = {name: value for metric in metrics for name, value in measured(metric, *sets).items()}
    if not layer:
        found |= measured(InceptionScore(InceptionScoreConfig(weights=weights, splits=1), SITE), sets[0])
    for name, value in found.items():
        theirs_name = {"fd": "frechet_inception_distance", "kd": "kernel_inception_distance_mean"}.get(name, name)
        expected = theirs[{"inception_score": "inception_score_mean"}.get(name, theirs_name)]
        print(f"{name}: {value!r}, torch-fidelity {expected!r}")
        assert value == pytest.approx(expected, rel=1e-3)
    assert found["recall"] not in (0, 1) or found["precision"] not in (0, 1)


class Listed(torch.utils.data.Dataset[Tensor]):
    """Pictures as a data set."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Tensor:
        return self.images[place]


SITE: Any = None


def test_subsets_and_parts_are_torch_fidelitys(oracle: Any) -> None:
    """Of rows in the order of their contents, the seeded subsets of KID and the parts of the score are equal."""
    random = np.random.default_rng(4)
    a, b = random.normal(0, 1, (50, 2048)).astype(np.float32), random.normal(0.1, 1, (60, 2048)).astype(np.float32)
    theirs = oracle.metric_kid.kid_features_to_metric(
        torch.from_numpy(a[by_content(a)]),
        torch.from_numpy(b[by_content(b)]),
        kid_subsets=5,
        kid_subset_size=20,
        verbose=False,
    )
    kid = KernelDistance(KIDConfig(random_seed=0, subsets=5, subset_size=20), SITE)
    found = kid.values({"pool3": a}, {"pool3": b})["kd"]
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    logits = random.normal(0, 2, (57, 1008)).astype(np.float32)
    scores = oracle.metric_isc.isc_features_to_metric(torch.from_numpy(logits[by_content(logits)]), splits=10)
    score = InceptionScore(InceptionScoreConfig(random_seed=0), SITE).values({"logits": logits}, None)
    assert score["inception_score"] == pytest.approx(scores["inception_score_mean"], rel=1e-9)


def test_only_fids_weights_are_called_fid(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of the published file decides the names."""
    other = FID(FIDConfig(weights=weights, allow_few=True), SITE)
    digest = other.source.split("sha256 ")[1][:64]
    assert other.label == f"FD, inception network, other weights, {digest[:8]}" and other.least == 2
    monkeypatch.setattr(inception, "SHA256", digest)
    own = FID(FIDConfig(weights=weights), SITE)
    assert (own.label, own.least) == ("FID", 2049)
    assert KernelDistance(KIDConfig(weights=weights), SITE).label == "KID"
    assert KernelDistance(KIDConfig(weights=weights, layer="192"), SITE).label == "KD, Inception 192"
    assert PrecisionRecall(PrecisionRecallConfig(weights=weights), SITE).label == "Precision and recall, Inception"
    assert own.name == "FID" and KernelDistance(KIDConfig(weights=weights), SITE).name == "KID"


def test_a_file_of_other_programs_is_found(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies in the cache of torch, or a line says how to get it; a damaged one is refused."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"get them once, on a machine with internet: https://github\.com/mseitzer"):
        inception.Inception(WeightsConfig())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / inception.NAMES[1]).write_bytes(Path(weights).read_bytes())
    assert "other weights" in inception.Inception(WeightsConfig()).title
    with pytest.raises(CheckpointError, match="SHA-256"):
        inception.Inception(WeightsConfig(weights=weights, weights_sha256="0" * 64))
    with pytest.raises(ConfigError, match="64, 192, 768"):
        inception.Inception(NetworkConfig(weights=weights, layer="100"))
