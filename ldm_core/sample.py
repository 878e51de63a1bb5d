"""Noise to latents to images: one run of a sampler under guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm_core.build import SamplingParts
from ldm_core.cond import Conditions
from ldm_core.contracts import Batch, Estimate, FirstStage, OnStep
from ldm_core.diffusion import Model, make_predict
from ldm_core.streams import Streams, mix_seed


def conditions_of(model: Model, batch: Batch) -> Conditions:
    """Encode a batch once for a run; the denoiser's `prepare`, where it has one, is applied once a branch."""
    conds = model.encode(batch)
    prepare: Callable | None = getattr(model.denoiser, "prepare", None)
    if prepare is None:
        return Conditions(conds, model.nulls(conds))

    def prepared(cond: object) -> object:
        with model.autocast():
            return prepare(cond)

    return Conditions(conds, model.nulls(conds), prepared)  # type: ignore[arg-type]


@torch.no_grad()
def sample_latents(
    model: Model,
    parts: SamplingParts,
    conditions: Conditions,
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    *,
    project: Callable[[Tensor], Tensor] | None = None,
    together: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, *shape) for B seeds: image i depends on ``seeds[i]`` alone.

    Starts from noise of std sqrt(alpha² + sigma²) at the grid's first time, which is 1 on VP and flow. `project`
    (the first stage's) is applied to each estimate of x0.
    """
    device = model.device
    # a stream of its own for the start, so that a sampler that draws nothing gives the same image
    start = Streams([mix_seed("start", s) for s in seeds], device)
    noise = Streams([mix_seed("noise", s) for s in seeds], device)
    times = parts.time_grid.times(model.schedule, steps)
    first = times[:1].double()
    scale = (model.schedule.alpha(first).square() + model.schedule.sigma(first).square()).sqrt()
    x = start.normal((len(seeds), *shape)) * float(scale)
    predict = make_predict(model, together=together)

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        estimate = parts.guidance.guide(predict, x, t, conditions, model.schedule)
        return estimate if project is None else estimate._replace(x0=project(estimate.x0))

    return parts.sampler.sample(denoise, x, times, model.schedule, streams=noise, on_step=on_step)


@torch.no_grad()
def decode(stage: FirstStage, z: Tensor) -> Tensor:
    """Latents -> uint8 images (B, c, H, W) on the CPU."""
    images = stage.decode(z).float().clamp(-1, 1)
    return ((images + 1) * 127.5).round().to(torch.uint8).cpu()
