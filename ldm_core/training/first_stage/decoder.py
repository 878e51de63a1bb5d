"""The training of a first stage's decoder alone: encoder, codes and normalisation stay, and so do the latents."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStage, FirstStageAnswers
from ldm_core.contracts.configs import of
from ldm_core.errors import ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.sources import init_header
from ldm_core.training.context import RunContext
from ldm_core.training.finetune import Start
from ldm_core.weights.convert import finder


def hold_latents(stage: FirstStage, started: Start, size: tuple[int, ...], channels: int) -> None:
    """Freeze all parameters of `stage` but its decoder's own.

    These are found by gradients: ``decode`` depends on them, ``encode_moments`` does not, and they hold no codes.
    `size` and `channels` are those of the images. Raises ConfigError for a start that leaves weights fresh, and for a
    stage without such parameters.
    """
    if missing := [*started.fresh, *started.adapted]:
        raise ConfigError(
            f"first_stage_trainer.train: 'decoder' wants all weights of the trained stage, and {started.source} lacks "
            f"{missing[0]} as it is here; give the recipe that stage's first_stage settings"
        )
    module = cast(nn.Module, stage)
    like = next(module.parameters())
    with torch.enable_grad():
        moments = stage.encode_moments(like.new_zeros(1, channels, *size))
        image = stage.decode(like.new_zeros(1, *stage.latent.shape(size)))
    kept = _reached(module, moments)
    if of(FirstStageAnswers, stage).init_codebook is not None:
        kept |= set(module.get_submodule("quantize").parameters())
    own = _reached(module, image) - kept
    if not own:
        raise ConfigError(
            f"first_stage_trainer.train: {type(stage).__name__} has no decoder with weights of its own; set "
            "first_stage_trainer.train=all"
        )
    for parameter in module.parameters():
        parameter.requires_grad_(parameter in own)


def _reached(module: nn.Module, out: Tensor) -> set[nn.Parameter]:
    """The parameters behind `out`."""
    if not out.requires_grad:
        return set()
    parameters = list(module.parameters())
    found = torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
    return {p for p, gradient in zip(parameters, found, strict=True) if gradient is not None}


def latents_of(context: RunContext) -> list[str]:
    """The hashes of the files of all stages with the latents of the run's stage, the source's first."""
    settings = context.recipe.first_stage_trainer
    source = init_header(settings, "first_stage_trainer", settings.init_sha256, finder(context.catalog))
    return [source.sha256, *artifacts.stages_of_latents(source)]
