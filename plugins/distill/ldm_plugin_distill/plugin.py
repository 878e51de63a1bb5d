"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

_PACKAGE = "ldm_plugin_distill"
_LCM = "Luo et al. 2023, arXiv 2310.04378"


_OBJECTIVES = (
    Component(
        kind="objective",
        name="consistency",
        config=f"{_PACKAGE}.config:ConsistencyConfig",
        factory=f"{_PACKAGE}.consistency:Consistency",
        summary="distils a trained model into one of 1 to 8 steps, its guidance folded in",
        source=f"{_LCM}, algorithm 1; Song et al. 2023, arXiv 2303.01469",
    ),
    Component(
        kind="objective",
        name="progressive",
        config=f"{_PACKAGE}.config:ProgressiveConfig",
        factory=f"{_PACKAGE}.progressive:Progressive",
        summary="distils a trained model into one of half as many steps, again and again",
        source="Salimans and Ho 2022, arXiv 2202.00512; Meng et al. 2023, arXiv 2210.03142",
    ),
    Component(
        kind="objective",
        name="adversarial",
        config=f"{_PACKAGE}.config:AdversarialConfig",
        factory=f"{_PACKAGE}.adversarial.objective:Adversarial",
        summary="distils a trained model into one of 1 to 4 steps, against a discriminator",
        source="Sauer et al. 2023, arXiv 2311.17042; Sauer et al. 2024, arXiv 2403.12015",
    ),
)
_SAMPLING = (
    Component(
        kind="sampler",
        name="lcm",
        config=f"{_PACKAGE}.config:LCMConfig",
        factory=f"{_PACKAGE}.sampler:LCMSampler",
        summary="multistep consistency sampling: to the data and back with fresh noise",
        source=f"{_LCM}, algorithm 3",
    ),
    Component(
        kind="time_grid",
        name="lcm",
        config=f"{_PACKAGE}.config:LCMGridConfig",
        factory=f"{_PACKAGE}.levels:LCMGrid",
        summary="evenly spaced of the levels of a consistency distillation, from the noisiest on",
        source=f"{_LCM}, section 4.3",
    ),
    Component(
        kind="guidance",
        name="embedded",
        config=f"{_PACKAGE}.config:EmbeddedConfig",
        factory=f"{_PACKAGE}.scale_input:EmbeddedGuidance",
        summary="tells the network the scale, in one evaluation: for students of a range of scales",
        source=f"{_LCM}; Meng et al. 2023, arXiv 2210.03142",
    ),
)
_ADAPTERS = (
    Component(
        kind="adapter",
        name="low_rank",
        config=f"{_PACKAGE}.config:LowRankConfig",
        factory=f"{_PACKAGE}.low_rank:LowRank",
        summary="a low-rank change of every layer: a student in a small file of its own",
        source="Hu et al. 2021, arXiv 2106.09685",
    ),
    Component(
        kind="adapter",
        name="scale_input",
        config=f"{_PACKAGE}.config:ScaleInputConfig",
        factory=f"{_PACKAGE}.scale_input:ScaleInput",
        summary="the guidance scale as an input of the network",
        source=f"{_LCM}, section 4.3",
    ),
)
_COMMANDS = (
    Component(
        kind="command",
        name="distil",
        group="Train",
        summary="Distil a trained run into a model of few steps.",
        factory=f"{_PACKAGE}.command:distil",
    ),
)


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """Objectives, the sampling of their models, adapters that a student is made of, and the command."""
    return [*_OBJECTIVES, *_SAMPLING, *_ADAPTERS, *_COMMANDS]
