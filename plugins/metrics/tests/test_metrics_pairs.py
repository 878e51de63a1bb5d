"""Metrics of pairs: closed forms, scikit-image, the lpips package, and what they refuse."""

from __future__ import annotations

import importlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ldm_plugin_metrics.pairs.config import LPIPSConfig, PSNRConfig, SSIMConfig
from ldm_plugin_metrics.pairs.psnr import PSNR
from ldm_plugin_metrics.pairs.ssim import SSIM
from safetensors.torch import save_file
from torch import Tensor

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.nn.torchvision_operators import importable
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

SITE = Site(size=(32, 32))


def pairs(channels: int = 3, size: tuple[int, int] = (32, 40), count: int = 6) -> Pictures:
    """Smooth pictures, and more and more noise on them."""
    g = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]] / 8
    clean = 127 + 100 * np.sin(x + g.uniform(0, 6, (count, channels, 1, 1))) * np.cos(y)
    noisy = clean + g.normal(0, 1, clean.shape) * (3 + 8 * np.arange(count))[:, None, None, None]
    images, originals = (torch.from_numpy(np.clip(each.round(), 0, 255).astype(np.uint8)) for each in (noisy, clean))
    return Pictures(images, range(count), originals=originals)


def parts(metric: PSNR | SSIM, pictures: Pictures) -> dict[str, float]:
    return dict(metric.values(metric.sums(metric.measure(pictures)), None))


class TestSSIMConformance(MetricSuite):
    component = "ssim"

    def known(self) -> Known:
        """The mean of two."""
        return Known({"ssim": np.array([0.25, 0.75])}, None, {"ssim": 0.5})


@pytest.mark.parametrize("channels", [1, 3])
def test_they_agree_with_scikit_image(channels: int) -> None:
    oracle = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    given = pairs(channels)
    assert given.originals is not None
    ssim, psnr = SSIM(SSIMConfig(), SITE).measure(given)["ssim"], PSNR(PSNRConfig(), SITE).measure(given)["psnr"]
    for i, (a, b) in enumerate(zip(given.images.numpy(), given.originals.numpy(), strict=True)):
        theirs = oracle.structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim[i] == pytest.approx(theirs, abs=1e-9)
        assert psnr[i] == pytest.approx(oracle.peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)
    assert ssim[0] > 0.95 and ssim[-1] < 0.6, "the pictures differ more and more"


def test_two_flat_pictures_have_the_similarity_of_their_levels() -> None:
    """Without variance the formula is (2 a b + c) / (a² + b² + c), c = 2.55²."""
    images, originals = (
        torch.full((1, 3, 16, 16), 100, dtype=torch.uint8),
        torch.full((1, 3, 16, 16), 140, dtype=torch.uint8),
    )
    expected = (2 * 100 * 140 + 2.55**2) / (100**2 + 140**2 + 2.55**2)
    found = SSIM(SSIMConfig(), SITE).measure(Pictures(images, originals=originals))["ssim"]
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_equal_pictures_have_the_largest_value() -> None:
    given = pairs()
    equal = Pictures(given.images, originals=given.images)
    assert parts(SSIM(SSIMConfig(), SITE), equal)["ssim"] == pytest.approx(1.0, abs=1e-12)
    assert parts(PSNR(PSNRConfig(), SITE), equal)["psnr"] == 100.0


def test_grey_in_three_channels_is_grey_to_the_bit() -> None:
    grey = pairs(1)
    assert grey.originals is not None
    three = Pictures(grey.images.expand(-1, 3, -1, -1), originals=grey.originals.expand(-1, 3, -1, -1))
    assert np.array_equal(
        SSIM(SSIMConfig(), SITE).measure(grey)["ssim"], SSIM(SSIMConfig(), SITE).measure(three)["ssim"]
    )
    assert np.array_equal(
        PSNR(PSNRConfig(), SITE).measure(grey)["psnr"], PSNR(PSNRConfig(), SITE).measure(three)["psnr"]
    )


def test_pairs_of_two_shapes_are_refused_and_so_are_lone_pictures() -> None:
    given = pairs()
    for metric in (PSNR(PSNRConfig(), SITE), SSIM(SSIMConfig(), SITE)):
        with pytest.raises(DataError, match="originals"):
            metric.measure(Pictures(given.images))
        with pytest.raises(DataError, match=r"\(3, 32, 40\).*\(1, 32, 40\)"):
            metric.measure(Pictures(given.images, originals=given.images[:, :1]))


def test_pictures_smaller_than_the_window_are_refused() -> None:
    small = pairs(size=(10, 32))
    with pytest.raises(DataError, match="at least 11 pixels"):
        SSIM(SSIMConfig(), SITE).measure(small)
    assert list(SSIMConfig().check(Site(size=(8, 8)))) and not list(SSIMConfig().check(Site(size=(11, 11))))
    assert math.isfinite(SSIM(SSIMConfig(), SITE).measure(pairs(size=(11, 11)))["ssim"][0])


# ------------------------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS' network with random weights and heads, in a file."""
    try:
        with importable():
            importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("torchvision, which timm needs, is not installed")
    pytest.importorskip("timm")
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LPIPS()
        for name, p in network.named_parameters():
            if name.startswith("lin"):
                p.copy_(torch.rand_like(p))
    file = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith("scaling")}, file)
    return file


def lpips(file: Path) -> Tensor:
    from ldm_plugin_metrics.pairs.lpips import LPIPSMetric

    return torch.from_numpy(LPIPSMetric(LPIPSConfig(weights=str(file)), SITE).measure(pairs())["lpips"])


class TestLPIPSConformance(MetricSuite):
    component = "lpips"
    sizes = ((16, 16), (16, 24))

    @pytest.fixture(autouse=True)
    def trained(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Name the file."""
        monkeypatch.setattr(type(self), "settings", {"weights": str(weights)})

    def known(self) -> Known:
        """The mean of two."""
        return Known({"lpips": np.array([0.25, 0.75])}, None, {"lpips": 0.5})


def test_it_agrees_with_the_lpips_package(weights: Path) -> None:
    oracle = pytest.importorskip("lpips", reason="the package lpips is not installed")
    from safetensors.torch import load_file

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        theirs = oracle.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    scaling = {f"scaling_layer.{k}": v for k, v in oracle.ScalingLayer().state_dict().items()}
    theirs.load_state_dict({**load_file(weights), **scaling}, strict=False, assign=True)
    given = pairs()
    assert given.originals is not None
    with torch.no_grad():
        expected = theirs.eval()(given.images.float() / 127.5 - 1, given.originals.float() / 127.5 - 1).flatten()
    assert float(expected.min()) > 0.01
    torch.testing.assert_close(lpips(weights), expected.double(), rtol=1e-5, atol=1e-6)


def test_its_label_and_source_name_the_network_and_the_file(weights: Path, tmp_path: Path) -> None:
    from ldm_plugin_metrics.pairs.lpips import LPIPSMetric
    from safetensors.torch import load_file

    one = LPIPSMetric(LPIPSConfig(weights=str(weights)), SITE)
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k.startswith("net")}, tmp_path / "trunk.safetensors")
    save_file({k: 2 * v for k, v in tensors.items() if k.startswith("lin")}, tmp_path / "heads.safetensors")
    both = ",".join(str(tmp_path / f"{name}.safetensors") for name in ("trunk", "heads"))
    other = LPIPSMetric(LPIPSConfig(weights=both), SITE)
    assert "VGG16" in one.label and one.source != other.source
    assert np.allclose(other.measure(pairs())["lpips"], 2 * one.measure(pairs())["lpips"], rtol=1e-5)


def test_weights_that_are_missing_or_another_network_s_are_refused(tmp_path: Path) -> None:
    from ldm_plugin_metrics.pairs.lpips import LPIPSMetric

    assert ["lpips: weights: path or URL is missing" in row for row in LPIPSConfig().check(SITE)] == [True]
    assert ["no file" in row for row in LPIPSConfig(weights=str(tmp_path / "none.pth")).check(SITE)] == [True]
    with pytest.raises(ConfigError, match="weights"):
        LPIPSMetric(LPIPSConfig(), SITE)
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        LPIPSMetric(LPIPSConfig(weights=str(tmp_path / "none.pth")), SITE)
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        LPIPSMetric(LPIPSConfig(weights=str(tmp_path / "other.safetensors")), SITE)
