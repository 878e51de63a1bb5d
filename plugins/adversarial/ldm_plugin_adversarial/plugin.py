"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The loss of the paper's first stages."""
    return [
        Component(
            kind="stage_objective",
            name="adversarial",
            config="ldm_plugin_adversarial.config:AdversarialConfig",
            factory="ldm_plugin_adversarial.objective:AdversarialObjective",
            summary="L1 or L2, perceptual distance, patch discriminator and the stage's regularisation",
            source="Esser et al. 2021, arXiv 2012.09841; Rombach et al. 2022, arXiv 2112.10752, appendix G",
        )
    ]
