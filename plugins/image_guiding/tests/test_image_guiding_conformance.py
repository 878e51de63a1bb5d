"""The conformance kit on this distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ldm_core.contracts import LatentSpec, Site
from ldm_core.testing import GuidanceSuite, PluginSuite, SamplerSuite, batches


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-image-guiding"


def encode(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 8).repeat(1, 2, 1, 1)[:, :4]


def decode(z: Tensor) -> Tensor:
    return F.interpolate(z[:, :3] + 0.1 * z[:, 3:], scale_factor=8.0, mode="bilinear").tanh()


class _WithAPicture(GuidanceSuite):
    """A run whose batch has a picture and a mask, at a site with a first stage."""

    latent: ClassVar[LatentSpec] = LatentSpec(4, (8, 8))
    factor: ClassVar[int] = 1

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        return attrs.evolve(super().site(size), encode=encode, decode=decode)

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        found = super().inputs(rows, size)
        small = tuple(side // self.factor for side in size)
        masks = torch.zeros(len(rows), *size, dtype=torch.bool)
        masks[:, : size[0] // 2] = True
        pictures = batches.uniform(rows, (3, *small), "picture") * 2 - 1
        return {**found, "batch": {**found["batch"], "image": pictures, "mask": masks}}


class TestLowResolutionTarget(_WithAPicture, GuidanceSuite):
    component = "low_resolution_target"
    factor = 4


class TestLowResolutionTargetByArea(_WithAPicture, GuidanceSuite):
    component = "low_resolution_target"
    factor = 8
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"factor": 8, "reduce": "area", "step": "published", "deviation": 1.0, "interval": [0.0, 5.0]}
    )


class TestKnownPixelsTarget(_WithAPicture, GuidanceSuite):
    component = "known_pixels_target"


class TestKnownPixelsTargetOfTheDecoder(_WithAPicture, GuidanceSuite):
    component = "known_pixels_target"
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"through_denoiser": False})


class _Judged(_WithAPicture):
    """A small network of random weights judges the pictures."""

    atol: ClassVar[float] = 1e-4  # of sums in a network of many layers, over other batches

    @pytest.fixture(scope="class", autouse=True)
    def _weights(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
        from ldm_plugin_adversarial.perceptual.networks import imported_timm

        file = tmp_path_factory.mktemp("network") / "weights.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = imported_timm().create_model("mobilenetv3_small_050", pretrained=False, num_classes=5)
        save_file(network.state_dict(), file)
        named = {"network": "mobilenetv3_small_050", "weights": str(file), "size": 32, "iterations": 1}
        request.cls.settings = named


class TestPerceptualTarget(_Judged, GuidanceSuite):
    component = "perceptual_target"


class TestClassifierTarget(_Judged, GuidanceSuite):
    component = "classifier_target"


class TestBlend(_WithAPicture, GuidanceSuite):
    component = "blend"


class TestBlendOfPixels(_WithAPicture, GuidanceSuite):
    component = "blend"
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"space": "pixels", "interval": [0.0, 5.0]})


class TestRePaint(SamplerSuite):
    component = "repaint"
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"resamples": 2, "jump": 2})
    divides_by_alpha = True


class TestRePaintWithoutResampling(SamplerSuite):
    component = "repaint"
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"resamples": 1, "eta": 0.0})
