"""The conformance kit on the small decoder and its training, and the network beside published numbers."""

from __future__ import annotations

import math
import tempfile
import zlib
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from ldm_plugin_tiny_decoder.config import TinyDecoderConfig, steps_of
from ldm_plugin_tiny_decoder.network import TinyDecoder
from safetensors.torch import save_file

from ldm_core.contracts import LatentSpec, Site
from ldm_core.recipe import artifacts
from ldm_core.testing import DecoderSuite, FirstStageSuite, PluginSuite, StageObjectiveSuite
from ldm_core.testing.base import installed

STAGE = {"channels": 8, "channel_mult": [1, 2, 2], "res_blocks": 1, "norm_groups": 4, "z_channels": 4}
_PLACE = tempfile.TemporaryDirectory(prefix="tiny-decoder-")


def _stage() -> str:
    """The file of a small KL stage with fresh weights."""
    entry, _ = installed().get("first_stage", "kl_ae")
    config = entry.component.config(**{k: tuple(v) if isinstance(v, list) else v for k, v in STAGE.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = entry.component.load()(config, Site(size=(32, 32)))
    file = str(Path(_PLACE.name) / "stage.safetensors")
    save_file(stage.state_dict(), file, metadata=artifacts.metadata("first_stage", "kl_ae", STAGE, {}))
    return file


class TestPlugin(PluginSuite):
    module = "ldm_plugin_tiny_decoder.plugin"


class TestTiny(DecoderSuite):
    component = "tiny"
    settings = MappingProxyType({"widths": [12, 8], "blocks": 1})


class TestOddStride(DecoderSuite):
    component = "tiny"
    settings = MappingProxyType({"widths": [8], "blocks": 1, "last_blocks": 0})
    latent = LatentSpec(3, (6, 3))
    sizes = ((12, 12), (12, 18))


class TestTraining(FirstStageSuite):
    component = "tiny_decoder"
    settings = MappingProxyType(
        {"stage": _stage(), "channels": 4, "stride": [4, 4], "widths": [12, 8], "blocks": 1, "latents": "mode"}
    )
    xfail = MappingProxyType({"test_normalization_is_honoured": "the latents stay those of the trained stage"})


class TestPixels(StageObjectiveSuite):
    component = "decoder_pixels"


def _filled(key: str, shape: torch.Size) -> torch.Tensor:
    """The values of published checks: 0.05 sin(0.37 i + p), p by the parameter's name."""
    phase = (zlib.crc32(key.encode()) % 1000) / 1000
    return (0.05 * torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + phase)).view(shape).float()


def test_numbers_of_the_published_network() -> None:
    """Widths 16 and 16, blocks 2 and 1, 4 channels: numbers measured with diffusers' AutoencoderTiny."""
    config = TinyDecoderConfig(widths=(16,), blocks=2, last_blocks=1)
    made = TinyDecoder(config, Site(size=(8, 8), latent=LatentSpec(4, (2, 2)))).eval()
    state = {}
    for name, tensor in made.state_dict().items():
        number, _, rest = name.partition(".")
        state[name] = _filled(f"decoder.layers.{int(number) - 1}.{rest}", tensor.shape)
    made.load_state_dict(state)
    z = torch.sin(0.1 * torch.arange(64, dtype=torch.float64)).view(1, 4, 4, 4).float()
    with torch.no_grad():
        image = made.decode(z)
    found = [image.mean(), image.std(correction=0), image.abs().max(), *image.flatten()[:5], image.flatten()[-1]]
    expected = [-1.0445759, 0.7601351, 3.1271729]
    expected += [-1.0214705, -0.9962371, -0.9381118, -0.8638711, -0.8060557, -0.3315383]
    assert [float(each) for each in found] == pytest.approx(expected, abs=3e-5)


def test_names_and_count_of_the_published_weights() -> None:
    made = TinyDecoder(TinyDecoderConfig(), Site(size=(64, 64), latent=LatentSpec(4, (8, 8))))
    assert sum(p.numel() for p in made.parameters()) == 1_222_531
    shapes = {name: tuple(p.shape) for name, p in made.named_parameters()}
    assert shapes["1.weight"] == (64, 4, 3, 3) and shapes["19.weight"] == (3, 64, 3, 3)
    assert shapes["3.conv.0.bias"] == (64,) and "7.weight" in shapes and "7.bias" not in shapes


def test_pixels_depend_on_the_cells_within_reach_alone() -> None:
    made = TinyDecoder(TinyDecoderConfig(widths=(8,), blocks=1), Site(size=(8, 8), latent=LatentSpec(2, (4, 2)))).eval()
    z = torch.zeros(1, 2, 41, 41)
    with torch.no_grad():
        before = made.decode(z)
        z[:, :, 20, 20] = 2.0
        rows, columns = (made.decode(z) != before).any(1)[0].nonzero().T
    for pixels, stride, reach in zip((rows, columns), (4, 2), made.reach, strict=True):
        far = max(20 - int(pixels.min()) // stride, int(pixels.max()) // stride - 20)
        assert reach - 1 <= far <= reach


@pytest.mark.parametrize(
    ("stride", "steps"),
    [((8, 8), [(2, 2)] * 3), ((1, 1), []), ((6, 4), [(3, 2), (2, 2)]), ((7, 1), [(7, 1)]), ((1, 8), [(1, 2)] * 3)],
)
def test_upsampling_by_any_factor(stride: tuple[int, int], steps: list[tuple[int, int]]) -> None:
    assert steps_of(stride) == steps
    made = TinyDecoder(TinyDecoderConfig(widths=(4,), blocks=0), Site(size=(8, 8), latent=LatentSpec(1, stride)))
    assert made.decode(torch.zeros(1, 1, 2, 3)).shape == (1, 3, 2 * stride[0], 3 * stride[1])
