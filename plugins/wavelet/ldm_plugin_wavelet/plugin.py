"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The first stage of Haar wavelets."""
    return [
        Component(
            kind="first_stage",
            name="haar",
            config="ldm_plugin_wavelet.config:HaarConfig",
            factory="ldm_plugin_wavelet.stage:HaarFirstStage",
            summary="Haar wavelets as latents: exact, nothing to train",
            source="Haar 1910; diffusion on it: Phung, Dao & Tran 2023, arXiv 2211.16152; the packet tree is ours",
            presets={f"haar_f{2**levels}": f"ldm_plugin_wavelet.config:F{2**levels}" for levels in (1, 2)},
        )
    ]
