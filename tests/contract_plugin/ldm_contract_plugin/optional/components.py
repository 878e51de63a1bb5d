"""The descriptors of these parts."""

from __future__ import annotations

from ldm_contract_plugin.optional import config
from ldm_core import Component

_PACKAGE = "ldm_contract_plugin.optional"


def components() -> list[Component]:
    """Parts that know sizes, have a state of their own, or choose their arithmetic."""
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
            kind="decoder",
            name="flat_colours",
            config=config.FlatColoursConfig,
            factory=f"{_PACKAGE}.flat_colours:FlatColours",
            summary="one colour a cell of the latents",
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
        Component(
            kind="annotation",
            name="corner_list",
            config=config.CornerListConfig,
            factory=f"{_PACKAGE}.corner_list:CornerList",
            summary="lines of a picture, a class and two corners in pixels",
        ),
        Component(
            kind="first_stage",
            name="loud_stage",
            config=config.LoudStageConfig,
            factory=f"{_PACKAGE}.loud:LoudStage",
            summary="pixels as latents, in float32 alone",
        ),
        Component(
            kind="conditioner",
            name="loud_class",
            config=config.LoudClassConfig,
            factory=f"{_PACKAGE}.loud:LoudClass",
            summary="the class as a vector, in float32 alone",
        ),
        Component(
            kind="denoiser",
            name="bf16_table",
            config=config.NarrowDenoiserConfig,
            factory=f"{_PACKAGE}.position_table:PositionTable",
            summary="position_table in bf16 alone",
        ),
        Component(
            kind="degradation",
            name="drizzle",
            config=config.DrizzleConfig,
            factory=f"{_PACKAGE}.drizzle:Drizzle",
            summary="every nth pixel, from a drawn one on",
        ),
        Component(
            kind="conditioner",
            name="small_picture",
            config=config.SmallPictureConfig,
            factory=f"{_PACKAGE}.small_picture:SmallPicture",
            summary="a picture of half the size beside the latents",
        ),
        Component(
            kind="metric",
            name="brightness",
            config=config.BrightnessConfig,
            factory=f"{_PACKAGE}.brightness:Brightness",
            summary="the distance of two sets by their brightness",
            source="Dowson & Landau 1982, doi 10.1016/0047-259X(82)90077-X",
        ),
    ]
