"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_kl_ae.config import PRESETS, KLAEConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The KL first stage."""
    return [
        Component(
            kind="first_stage",
            name="kl_ae",
            config=KLAEConfig,
            factory="ldm_plugin_kl_ae.model:KLFirstStage",
            summary="convolutional autoencoder, Gaussian latents",
            source="Rombach et al. 2022, arXiv 2112.10752, appendix G; the size kl_f2 is ours",
            presets=PRESETS,
            small={
                "channels": 16,
                "res_blocks": 1,
                "attention": (),
                "mid_attention": False,
                "norm_groups": 4,
            },
        )
    ]
