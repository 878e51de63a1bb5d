"""The descriptors of these parts."""

from __future__ import annotations

from ldm_contract_plugin.training import config
from ldm_core import Component

_PACKAGE = "ldm_contract_plugin.training"


def components() -> list[Component]:
    """A schedule and a network that know the latents' size; objectives with a state of their own."""
    return [
        Component(
            kind="schedule",
            name="resolution_flow",
            config=config.ResolutionFlowConfig,
            factory=f"{_PACKAGE}.resolution_flow:ResolutionFlow",
            summary="rectified flow, with noisier training times for larger latents",
            source="Esser et al. 2024, arXiv 2403.03206, section 5.3.2",
        ),
        Component(
            kind="denoiser",
            name="position_table",
            config=config.TableDenoiserConfig,
            factory=f"{_PACKAGE}.position_table:PositionTable",
            summary="a small network with a table of positions, cut for smaller latents",
        ),
        Component(
            kind="objective",
            name="own_teacher",
            config=config.TeacherConfig,
            factory=f"{_PACKAGE}.own_teacher:OwnTeacher",
            summary="the plain error beside the guided estimate of a slow copy of the model",
            source="Meng et al. 2023, arXiv 2210.03142; Tarvainen & Valpola 2017, arXiv 1703.01780",
        ),
        Component(
            kind="conditioner",
            name="representation",
            config=config.RepresentationConfig,
            factory=f"{_PACKAGE}.representation:Representation",
            summary="a fixed representation of the clean picture, for an objective",
        ),
        Component(
            kind="objective",
            name="alignment",
            config=config.AlignmentConfig,
            factory=f"{_PACKAGE}.representation:Alignment",
            summary="the plain error, and a trained projection towards the picture's representation",
            source="after Yu et al. 2024, arXiv 2410.06940",
        ),
    ]
