"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_vq_ae.config import PRESETS, VQAEConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The VQ first stage."""
    return [
        Component(
            kind="first_stage",
            name="vq_ae",
            config=VQAEConfig,
            factory="ldm_plugin_vq_ae.model:VQFirstStage",
            summary="convolutional autoencoder, latents from a learned codebook",
            source=(
                "Esser et al. 2021, arXiv 2012.09841; Rombach et al. 2022, arXiv 2112.10752, appendix G; the sizes "
                "vq_f2 and vq_f32 are ours"
            ),
            presets=PRESETS,
            small={
                "channels": 16,
                "res_blocks": 1,
                "attention": (),
                "mid_attention": False,
                "norm_groups": 4,
                "codebook_size": 2048,
                "legacy_beta": False,
                "codebook_weight": 0.25,
            },
        )
    ]
