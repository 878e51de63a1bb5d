"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The DDIM sampler."""
    return [
        Component(
            kind="sampler",
            name="ddim",
            config="ldm_plugin_ddim.config:DDIMConfig",
            factory="ldm_plugin_ddim.sampler:DDIMSampler",
            summary="deterministic (eta 0) to ancestral (eta 1), first order",
            source="Song, Meng & Ermon 2020, arXiv 2010.02502, equations 12 and 16",
        )
    ]
