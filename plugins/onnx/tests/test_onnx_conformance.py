"""The conformance kit on this distribution."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from ldm_core.contracts.codec import ModelWeights
from ldm_core.testing import PluginSuite
from ldm_core.testing.suites.codec import CodecSuite, random_weights

TINY: dict[str, Any] = {
    "image_size": 8,
    "first_stage": {"use": "kl_ae", "channels": 4, "channel_mult": [1], "res_blocks": 1, "norm_groups": 2,
                    "mid_attention": False, "z_channels": 2},
    "denoiser": {"use": "unet", "channels": 4, "channel_mult": [1], "res_blocks": 1, "heads": 1, "attention": [],
                 "norm_groups": 2},
    "conditioners": [{"use": "class_label", "classes": 3, "width": 4, "dropout": 0.1}],
    "sampler": "ddim",
    "sample": {"steps": 2},
}  # fmt: skip


@cache
def models() -> Mapping[str, ModelWeights]:
    return {"model": random_weights(TINY), "first stage": random_weights(TINY, "first_stage")}


class TestONNX(CodecSuite):
    component = "onnx"
    name: ClassVar[str] = "folder"
    broken_files: ClassVar[int] = 1

    def cases(self) -> Mapping[str, ModelWeights]:
        return models()


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-onnx"
