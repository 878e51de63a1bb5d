"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

TALLY = Component(
    kind="command",
    name="tally",
    group="Prompts",
    factory="ldm_contract_plugin.tally:tally",
    summary="Count the words of prompts.",
)


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """A transformer, rectified flow, two-set conditioning, LoRA, OFT, a command."""
    if kinds is not None and set(kinds) == {"command"}:  # `ldm-run --help` starts without the configs
        return [TALLY]
    from ldm_contract_plugin import config
    from ldm_contract_plugin.conditioning import components as conditioning
    from ldm_contract_plugin.optional import components as optional
    from ldm_contract_plugin.runs import components as runs

    return [
        *conditioning.components(),
        *optional.components(),
        *runs.components(),
        Component(
            kind="denoiser",
            name="tiny_dit",
            config=config.TinyDiTConfig,
            factory="ldm_contract_plugin.dit:TinyDiT",
            summary="a small diffusion transformer",
            source="Peebles & Xie 2022, arXiv 2212.09748",
        ),
        Component(
            kind="schedule",
            name="rectified_flow",
            config=config.RectifiedFlowConfig,
            factory="ldm_contract_plugin.flow:RectifiedFlow",
            summary="straight lines from data to noise",
            source="Liu et al. 2022, arXiv 2209.03003",
        ),
        Component(
            kind="parameterization",
            name="flow",
            config=config.FlowConfig,
            factory="ldm_contract_plugin.flow:Flow",
            summary="the network predicts eps - x0",
            source="Liu et al. 2022, arXiv 2209.03003",
        ),
        Component(
            kind="conditioner",
            name="two_set",
            config=config.TwoSetConfig,
            factory="ldm_contract_plugin.two_set:TwoSet",
            summary="two sets of tokens and a vector, from caption and class",
        ),
        Component(
            kind="adapter",
            name="lora",
            config=config.LoRAConfig,
            factory="ldm_contract_plugin.lora:LoRA",
            summary="low-rank updates of attention projections",
            source="Hu et al. 2021, arXiv 2106.09685",
        ),
        Component(
            kind="adapter",
            name="oft",
            config=config.OFTConfig,
            factory="ldm_contract_plugin.oft:OFT",
            summary="rotated rows of attention weights, fused ones too",
            source="Qiu et al. 2023, arXiv 2306.07280",
        ),
        Component(
            kind="first_stage",
            name="patches",
            config=config.PatchesConfig,
            factory="ldm_contract_plugin.patches:Patches",
            summary="patches through a linear map, and back",
        ),
        Component(
            kind="auxiliary_loss",
            name="aligned",
            config=config.AlignedConfig,
            factory="ldm_contract_plugin.aligned:Aligned",
            summary="latents aligned with a fixed network",
            source="Yao et al. 2025, arXiv 2501.01423",
        ),
        TALLY,
    ]
