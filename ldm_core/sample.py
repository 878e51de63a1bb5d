"""Noise to latents to images: one run of a sampler under guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.build import SamplingParts
from ldm_core.cond import Conditions
from ldm_core.contracts import Batch, Estimate, FirstStage, OnStep
from ldm_core.diffusion import Model, make_predict
from ldm_core.streams import Streams, mix_seed


def conditions_of(model: Model, batch: Batch, negative: Batch | None = None) -> Conditions:
    """Encode a batch once for a run.

    `negative`: keys that what is to be avoided gives. The bundles of the conditioners that read one of them, encoded
    with these and the batch's other keys, stand where their nulls would.
    """
    conds = model.encode(batch)
    nulls = model.nulls(conds)
    if negative:
        readers = [name for name, c in model.conditioners.items() if any(key in negative for key in c.reads)]
        nulls.update(model.encode({**batch, **negative}, readers))
    return Conditions(conds, nulls, batch=batch)


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


def truncations(conditioners: Mapping[str, Any], prompts: Sequence[str]) -> list[str]:
    """For each prompt that is longer than a conditioner's context, a line that quotes what is cut."""
    lines = []
    for name, conditioner in conditioners.items():
        if (truncated := getattr(conditioner, "truncated", None)) is None:
            continue
        for prompt in dict.fromkeys(prompts):
            if cut := truncated(prompt):
                lines.append(f"the prompt is longer than conditioner '{name}' takes; cut off: '{cut}'")
    return lines


def omissions(conditioners: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What conditioners with a method ``omitted(example) -> str`` leave out of their inputs, a line for each."""
    lines = []
    for name, conditioner in conditioners.items():
        if (omitted := getattr(conditioner, "omitted", None)) is not None:
            lines += [f"conditioner '{name}' leaves out {what}" for row in rows if (what := omitted(row))]
    return list(dict.fromkeys(lines))


@torch.no_grad()
def decode(stage: FirstStage, z: Tensor) -> Tensor:
    """Latents -> uint8 images (B, c, H, W) on the CPU."""
    images = stage.decode(z).float().clamp(-1, 1)
    return ((images + 1) * 127.5).round().to(torch.uint8).cpu()
