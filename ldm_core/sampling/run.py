"""Noise to latents to images: one run of a sampler under guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
import numpy as np
import torch
from torch import Tensor

from ldm_core.contracts import Batch, Denoise, Estimate, FirstStage, Guidance, OnStep, SamplingRun, grid_times
from ldm_core.contracts.answers import PartAnswers
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.configs import TimeGridConfig, of
from ldm_core.contracts.run import current_run, in_run
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.contracts.values import Precision
from ldm_core.data.collate import to_images
from ldm_core.errors import Interrupted, NotFiniteError
from ldm_core.model.arithmetic import arithmetic
from ldm_core.model.build import SamplingParts
from ldm_core.model.conformance.breaches import Named, inside
from ldm_core.model.conformance.first_batch import hold_estimate, hold_result, hold_times
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.model.tiles.tiling import Tiling
from ldm_core.sampling.finite import finite_rows
from ldm_core.sampling.image_to_image import Passage
from ldm_core.sampling.result import Callback, Progress


def conditions_of(
    model: Model,
    batch: Batch,
    negative: Batch | None = None,
    seeds: Sequence[int] | None = None,
    *,
    options: Iterable[str] | None = None,
) -> Conditions:
    """Encode a batch once for a run.

    `negative` holds the inputs to avoid. Conditioners that read one of them encode these and the batch's other keys;
    the bundles take the place of their nulls. Conditioners that draw noise draw it from the images' `seeds`, the same
    for the inputs to avoid; None = their deterministic mode. `options`: those that the model's parts accept; None = not
    known.
    """
    conds = model.encode(batch, seeds=seeds)
    nulls = model.nulls(conds)
    if negative:
        readers = [name for name, c in model.conditioners.items() if not negative.keys().isdisjoint(c.reads)]  # type: ignore[arg-type]
        nulls.update(model.encode({**batch, **negative}, readers, seeds=seeds))
    return Conditions(conds, nulls, batch=batch, specs=model.specs, seeds=seeds, options=options, run=current_run())


@attrs.frozen(eq=False)
class LatentOptions:
    """Options of :func:`sample_latents`.

    `project` (the first stage's) is applied to each estimate of x0: with `keep_eps` after eps was taken from it, as
    published, else before. `together` evaluates a guidance's branches in one batch. `on_step` is the observer of each
    step. `passage` says at which levels the run begins and ends.
    """

    project: Callable[[Tensor], Tensor] | None = None
    keep_eps: bool = False
    together: bool = True
    on_step: OnStep | None = None
    passage: Passage = attrs.field(factory=Passage)


@torch.no_grad()
def sample_latents(
    model: Model,
    parts: SamplingParts,
    conditions: Conditions,
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    options: LatentOptions | None = None,
) -> Tensor:
    """Sample latents (B, *shape) for B seeds: image i depends on ``seeds[i]`` alone.

    It starts from noise of std sqrt(alpha² + sigma²), 1 on VP and flow, at the grid's first time, or as the passage of
    `options` says.
    """
    options = options or LatentOptions()
    x, times, noise = beginning(model, parts, shape, seeds, steps, options.passage)
    sampler, guidance = parts.named.get("sampler"), parts.named.get("guidance")
    run = guided_run(model, parts.guidance, conditions, times, options, named=guidance)
    with run as (denoise, on_step), inside(sampler, "sample"):
        out = parts.sampler.sample(denoise, x, times, model.schedule, streams=noise, on_step=on_step)
    hold_result(sampler, out, x)
    return out


def beginning(
    model: Model, parts: SamplingParts, shape: Sequence[int], seeds: Sequence[int], steps: int, passage: Passage
) -> tuple[Tensor, Tensor, Streams]:
    """The begin of a run over B seeds: x (B, *shape) at ``times[0]``, the times, and the streams of a sampler."""
    # a stream of its own for the start: samplers begin alike, whether they draw noise or not
    start, noise = (Streams([mix_seed(word, s) for s in seeds], model.device) for word in ("start", "noise"))
    times = passage.times(_times(model, parts, steps, shape))
    return passage.start(model.schedule, times[0], start.normal((len(seeds), *shape))), times, noise


def _times(model: Model, parts: SamplingParts, steps: int, shape: Sequence[int]) -> Tensor:
    """The levels (steps + 1,) of the grid for latents (C, *s) of `shape`, held to its contract."""
    grid = parts.named.get("time_grid")
    with inside(grid, "times"):
        times = grid_times(parts.time_grid, model.schedule, steps, shape)
    config = of(PartAnswers, parts.time_grid).config
    hold_times(grid, times, steps, model.schedule, more=of(TimeGridConfig, config).uneven)
    return times


@contextmanager
def guided_run(
    model: Model,
    guidance: Guidance,
    conditions: Conditions,
    times: Tensor,
    options: LatentOptions | None = None,
    *,
    named: Named | None = None,
) -> Iterator[tuple[Denoise, OnStep]]:
    """One run of a sampler down `times` (steps + 1,): what its ``sample`` is handed as `denoise` and `on_step`.

    The adapters of `model` are told of the run before and after. Estimates are guided, held to their contract, where
    the guidance is `named`, and projected as `options` say.
    """
    options = options or LatentOptions()
    predict = make_predict(model, together=options.together)
    with SamplingRun(times) as run:
        model.begin(run)
        given = conditions.in_run(run)

        def denoise(x: Tensor, t: Tensor) -> Estimate:
            with in_run(run), inside(named, "guide"):
                estimate = guidance.guide(predict, x, t, given, model.schedule)
            run.evaluation += 1
            hold_estimate(named, "guide", estimate, x)
            if options.project is None or options.keep_eps:
                return estimate._replace(project=options.project)
            return estimate._replace(x0=options.project(estimate.x0))

        def on_step(i: int, t: Tensor, x: Tensor, x0: Tensor) -> Tensor | None:
            other = None if options.on_step is None else options.on_step(i, t, x, x0)
            run.step = i + 1
            return other

        yield denoise, on_step


@attrs.define(eq=False)
class Watch:
    """The observer of one batch: keeps the last x0, tells the callback, and cancels the run for it."""

    callback: Callback | None
    begun: Progress  # before the batch's first step
    show: Callable[[Tensor], np.ndarray] | None = None  # makes pictures of x0
    x0: Tensor | None = None

    def __call__(self, i: int, t: Tensor, x: Tensor, x0: Tensor) -> None:
        """See :data:`ldm_core.contracts.OnStep`."""
        self.x0 = x0
        shown = None if self.show is None else partial(self.show, x0)
        now = attrs.evolve(self.begun, step=self.begun.step + i + 1, shown=shown)
        if self.callback is not None and self.callback(now) is False:
            raise Interrupted("sampling was cancelled")


@torch.no_grad()
def decoded(
    decode: Callable[[Tensor], Tensor], z: Tensor, precision: Precision = "fp32", *, levels: str = "rounded"
) -> tuple[Tensor, Tensor]:
    """Decode latents to uint8 images (B, c, H, W), and tell which rows were finite before, bool (B,); on the CPU.

    The stage runs in `precision`, which it must allow.
    `levels` are ``rounded`` to the nearest of 256, or ``cut``, the fraction left out.
    """
    with arithmetic(z.device.type, precision):
        images = decode(z)
    images = images.float()
    fine = finite_rows(images)
    if levels == "cut":
        return (((images + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).cpu(), fine
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu(), fine


@torch.no_grad()
def reconstruct(
    stage: FirstStage, images: np.ndarray, device: torch.device, batch: int = 16, tiling: Tiling | None = None
) -> np.ndarray:
    """Take uint8 images (B, c, H, W) through a first stage and back, uint8; large ones as `tiling` has it."""
    out, tiling = [], tiling or Tiling()
    for i in range(0, len(images), batch):
        x = to_images(images[i : i + batch]).to(device)
        shown, fine = decoded(partial(tiling.decode, stage), stage.latents(tiling.moments(stage, x)))
        if not fine.all():
            number = i + fine.tolist().index(False)
            raise NotFiniteError(
                f"image {number}: the first stage makes NaN of it; look at its weights: `weights.describe`"
            )
        out.append(shown.numpy())
    return np.concatenate(out)
