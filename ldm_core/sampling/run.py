"""Noise to latents to images: one run of a sampler under guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts import Batch, Estimate, FirstStage, OnStep
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.contracts.values import Precision
from ldm_core.model.build import SamplingParts
from ldm_core.model.conformance.breaches import inside
from ldm_core.model.conformance.first_batch import hold_estimate, hold_result, hold_times
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.sampling.finite import finite_rows
from ldm_core.sampling.image_to_image import Passage


def conditions_of(model: Model, batch: Batch, negative: Batch | None = None) -> Conditions:
    """Encode a batch once for a run.

    `negative`: keys that what is to be avoided gives. The bundles of the conditioners that read one of them, encoded
    with these and the batch's other keys, stand where their nulls would.
    """
    conds = model.encode(batch)
    nulls = model.nulls(conds)
    if negative:
        readers = [name for name, c in model.conditioners.items() if not negative.keys().isdisjoint(c.reads)]  # type: ignore[arg-type]
        nulls.update(model.encode({**batch, **negative}, readers))
    return Conditions(conds, nulls, batch=batch)


@torch.no_grad()
def sample_latents(  # noqa: PLR0913
    model: Model,
    parts: SamplingParts,
    conditions: Conditions,
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    *,
    project: Callable[[Tensor], Tensor] | None = None,
    keep_eps: bool | None = None,
    together: bool = True,
    on_step: OnStep | None = None,
    passage: Passage | None = None,
) -> Tensor:
    """Latents (B, *shape) for B seeds: image i depends on ``seeds[i]`` alone.

    Starts from noise of std sqrt(alpha² + sigma²) at the grid's first time, which is 1 on VP and flow, or as
    `passage` says, and ends where it ends. `project` (the first stage's) is applied to each estimate of x0: with
    `keep_eps` after eps was taken from it, as published, else before; None: after where the sampler can.
    """
    if keep_eps is None:
        keep_eps = getattr(getattr(parts.sampler, "config", None), "quantizes", False)
    device = model.device
    # a stream of its own for the start, so that a sampler that draws nothing gives the same image
    start = Streams([mix_seed("start", s) for s in seeds], device)
    noise = Streams([mix_seed("noise", s) for s in seeds], device)
    passage = passage or Passage()
    named = parts.named.get
    with inside(named("time_grid"), "times"):
        times = parts.time_grid.times(model.schedule, steps)
    uneven = getattr(getattr(parts.time_grid, "config", None), "uneven", False)
    hold_times(named("time_grid"), times, steps, model.schedule, more=uneven)
    times = passage.times(times)
    x = passage.start(model.schedule, times[0], start.normal((len(seeds), *shape)))
    predict = make_predict(model, together=together)

    guidance = named("guidance")

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        with inside(guidance, "guide"):
            estimate = parts.guidance.guide(predict, x, t, conditions, model.schedule)
        hold_estimate(guidance, "guide", estimate, x)
        if project is None or keep_eps:
            return estimate._replace(project=project)
        return estimate._replace(x0=project(estimate.x0))

    with inside(named("sampler"), "sample"):
        out = parts.sampler.sample(denoise, x, times, model.schedule, streams=noise, on_step=on_step)
    hold_result(named("sampler"), out, x)
    return out


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
def decode(stage: FirstStage, z: Tensor, precision: Precision = "fp32") -> Tensor:
    """Latents -> uint8 images (B, c, H, W) on the CPU; see :func:`decoded`."""
    return decoded(stage, z, precision)[0]


@torch.no_grad()
def decoded(
    stage: FirstStage,
    z: Tensor,
    precision: Precision = "fp32",
    *,
    decode: Callable[[Tensor], Tensor] | None = None,
    levels: str = "rounded",
) -> tuple[Tensor, Tensor]:
    """Latents -> uint8 images (B, c, H, W), and (B,) bool which of them were finite before, on the CPU. `decode` takes
    the place of the stage's.

    Under ``bf16`` the stage's convolutions run in it; not under ``fp16``, whose range published autoencoders leave.
    `levels`: ``rounded`` to the nearest of 256, or ``cut``, the fraction left out.
    """
    with torch.autocast(z.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        images = (decode or stage.decode)(z)
    images = images.float()
    fine = finite_rows(images)
    if levels == "cut":
        return (((images + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).cpu(), fine
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu(), fine
