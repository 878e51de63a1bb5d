"""The CompVis codec in the conformance kit: a small model of every kind that the format holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ldm_core.contracts.codec import ModelWeights
from ldm_core.testing import CodecSuite, PluginSuite
from ldm_core.testing.suites.codec import random_weights

UNET = {"use": "unet", "channels": 32, "channel_mult": (1, 2), "res_blocks": 1, "attention": (2,), "heads": 2}
KL = {"use": "kl_f4", "channels": 32, "channel_mult": (1, 1), "res_blocks": 1, "mid_attention": False}
VQ = {"use": "vq_f4", "channels": 32, "channel_mult": (1, 1), "res_blocks": 1, "codebook_size": 16}
TOKENS = {"width": 32, "layers": 1, "vocab_size": 64}


def model(stage: Mapping[str, Any] = VQ, *conditioners: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Plain values of a small model; `more` are fields of its U-Net, or whole parts."""
    parts: dict[str, Any] = {k: more.pop(k) for k in ("schedule", "parameterization", "objective") if k in more}
    return {
        "image_size": 16,
        "first_stage": dict(stage),
        "conditioners": [dict(c) for c in conditioners],
        "denoiser": {**UNET, **more},
        **parts,
    }


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-compvis"


class TestCompVisCodec(CodecSuite):
    component = "compvis"
    broken_files = 3

    @staticmethod
    @cache
    def _cases() -> Mapping[str, ModelWeights]:
        unconditional = model(KL, resblock_updown=True, scale_shift_norm=True, schedule="vp_churches")
        return {
            "unconditional": random_weights(unconditional),
            "class": random_weights(model(VQ, {"use": "class_label", "classes": 3, "width": 16})),
            "stage": random_weights(model(KL), "first_stage"),
            "denoiser": random_weights(model(VQ, parameterization="v"), "denoiser"),
        }

    def cases(self) -> Mapping[str, ModelWeights]:
        return self._cases()

    def undecided(self, folder: Path) -> tuple[Path, Sequence[str]]:
        weights = random_weights(model(KL, {"use": "class_label", "classes": 3, "width": 16}))
        prefixed = {f"first_stage_model.{k}": v for k, v in (weights.first_stage or {}).items() if "latent" not in k}
        for key, value in (weights.model or {}).items():
            name = key.replace("conditioners.class_label.", "cond_stage_model.")
            prefixed[name.replace("denoiser.", "model.diffusion_model.")] = value
        path = folder / "bare.safetensors"
        save_file({k: v.contiguous() for k, v in prefixed.items()}, str(path))
        return path, (
            "codec.scale_factor",
            "conditioners.class_label.null_class",
            "denoiser.heads",
            "image_size",
            "parameterization",
            "schedule",
        )
