"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

_PACKAGE = "ldm_plugin_distill"
_LCM = "Luo et al. 2023, arXiv 2310.04378"


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """Two objectives, the sampler and the time grid of the first one's models, and the command."""
    return [
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
            kind="command",
            name="distil",
            group="Train",
            summary="Distil a trained run into a model of few steps.",
            factory=f"{_PACKAGE}.command:distil",
        ),
    ]
