"""The pieces of a sampling for a caller's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, OnStep
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.streams import Streams
from ldm_core.model.build import SamplingParts
from ldm_core.model.diffusion import Model
from ldm_core.sampling.pieces.plan import Plan
from ldm_core.sampling.run import LatentOptions, beginning, guided_run


@attrs.frozen(eq=False)
class Loop:
    """One run of a caller's own loop over B images, as a sampler is handed it.

    `x` (B, C, *s), float32, is the noise (or the picture, noised) at ``times[0]``; `times` (steps + 1,) are float64,
    strictly decreasing; `alpha` and `sigma` are the schedule's numbers at each. ``denoise(x, t)``, t () or (B,), gives
    the guided estimate, whose x0 has x's shape. ``streams.normal(x.shape)`` is noise of each image's own seed.
    """

    x: Tensor
    times: Tensor
    schedule: NoiseSchedule
    denoise: Denoise
    streams: Streams
    _taken: Callable[[], OnStep] = attrs.field(repr=False)

    @property
    def on_step(self) -> OnStep:
        """The observer that a sampler tells of each step. A loop that does not take it tells its steps by their
        levels."""
        return self._taken()

    @property
    def alpha(self) -> list[float]:
        """alpha at each of the times."""
        return self._numbers(self.schedule.alpha)

    @property
    def sigma(self) -> list[float]:
        """sigma at each of the times."""
        return self._numbers(self.schedule.sigma)

    def _numbers(self, of: Callable[[Tensor], Tensor]) -> list[float]:
        found: list[float] = of(self.times).tolist()
        return found


@contextmanager
def begun_loop(
    model: Model, parts: SamplingParts, conditions: Conditions, plan: Plan, options: LatentOptions
) -> Iterator[Loop]:
    """A run of `plan` as :func:`ldm_core.sampling.run.sample_latents` has it, but for its sampler."""
    x, times, noise = beginning(model, parts, plan.shape, plan.seeds, plan.steps, options.passage)
    levels, told = times.tolist(), list[OnStep]()
    run = guided_run(model, parts.guidance, conditions, times, options, named=parts.named.get("guidance"))
    with run as (guided, count):

        def denoise(x: Tensor, t: Tensor) -> Estimate:
            at = torch.as_tensor(t, dtype=times.dtype, device=x.device)
            level = float(at.flatten()[0])
            if not told and level in levels[1:]:
                count(levels.index(level) - 1, at, x, x)
            return guided(x, at.expand(len(x)))

        def taken() -> OnStep:
            told.append(count)
            return count

        yield Loop(x, times, model.schedule, denoise, noise, taken)
