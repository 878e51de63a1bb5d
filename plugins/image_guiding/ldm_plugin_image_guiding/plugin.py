"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl

_D6 = "Rombach et al. 2022, arXiv 2112.10752, appendix D.6"
_GUIDANCES = (
    ("low_resolution_target", "LowResolutionTargetConfig", "pull", "LowResolutionTarget", _D6,
     "pulls samples towards a small picture: super-resolution with any model"),
    ("known_pixels_target", "KnownPixelsTargetConfig", "pull", "KnownPixelsTarget", _D6,
     "pulls samples towards the known pixels of a picture with holes"),
    ("perceptual_target", "PerceptualTargetConfig", "networks", "PerceptualTarget", _D6,
     "pulls samples towards a picture, as a trained network sees it"),
    ("classifier_target", "ClassifierTargetConfig", "networks", "ClassifierTarget",
     "Dhariwal & Nichol 2021, arXiv 2105.05233; of the decoded estimate, as in " + _D6,
     "pulls samples towards a class of a given classifier"),
    ("blend", "BlendConfig", "blend", "Blend", "Avrahami et al. 2022, arXiv 2206.02779, of the estimate",
     "keeps the known part of a picture at each step: inpainting with any model"),
)  # fmt: skip


@hookimpl
def ldm_components() -> list[Component]:
    """Image guiding, blending, and a sampler that resamples."""
    package = __package__ or "ldm_plugin_image_guiding"
    guidances = [
        Component(
            kind="guidance",
            name=name,
            config=f"{package}.config:{made_of}",
            factory=f"{package}.{module}:{factory}",
            summary=summary,
            source=source,
        )
        for name, made_of, module, factory, source, summary in _GUIDANCES
    ]
    sampler = Component(
        kind="sampler",
        name="repaint",
        config=f"{package}.config:RePaintConfig",
        factory=f"{package}.repaint:RePaintSampler",
        summary="goes down and back up in jumps, so that filled parts fit what is known",
        source="Lugmayr et al. 2022, arXiv 2201.09865",
    )
    return [*guidances, sampler]
