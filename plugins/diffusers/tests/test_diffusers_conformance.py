"""The codec against the kit's contract, with a model of each pipeline that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

from diffusers_models import TEXT, UNCONDITIONAL, with_words

from ldm_core.contracts.codec import ModelWeights
from ldm_core.testing.sources import contents_of
from ldm_core.testing.suites.codec import CodecSuite, put, random_weights
from ldm_core.testing.suites.plugin import PluginSuite

TINY_STAGE = {"channels": 8, "norm_groups": 4, "res_blocks": 1, "channel_mult": [1, 2]}
TINY_UNET = {"channels": 8, "norm_groups": 4, "res_blocks": 1, "channel_mult": [1], "attention": [1]}


@cache
def models() -> Mapping[str, ModelWeights]:
    uncond = {
        **UNCONDITIONAL,
        "first_stage": {"use": "vq_ae", "codebook_size": 8, **TINY_STAGE},
        "denoiser": {**TINY_UNET, "heads": 1},
    }
    text = {
        **TEXT,
        "image_size": 16,
        "first_stage": {"use": "kl_ae", **TINY_STAGE},
        "denoiser": {**TINY_UNET, "heads": 2},
        "conditioners": [{**TEXT["conditioners"][0], "width": 8, "layers": 1}],
    }
    return {
        "unconditional": random_weights(uncond),
        "text": with_words(random_weights(text)),
        "first_stage": random_weights(text, "first_stage"),
        "denoiser": random_weights(uncond, "denoiser"),
    }


class TestDiffusers(CodecSuite):
    component = "diffusers"
    name: ClassVar[str] = "folder"
    broken_files: ClassVar[int] = 2

    def cases(self) -> Mapping[str, ModelWeights]:
        return models()

    def undecided(self, folder: Path) -> tuple[Path, list[str]]:
        """A pipeline whose U-Net does not say how large its latents are."""
        path = put(self.build().write(models()["unconditional"], self.name).files, folder, self.name)
        config = path / "unet" / "config.json"
        lines = [line for line in config.read_text().splitlines() if "sample_size" not in line]
        config.write_text("\n".join(lines).replace(",\n}", "\n}"))
        assert "unet/config.json" in contents_of(path)
        return path, ["image_size"]


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-diffusers"
