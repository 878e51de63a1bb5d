"""The pieces of a sampling for a caller's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.model.build import SamplingParts
from ldm_core.model.conformance.breaches import inside
from ldm_core.model.conformance.first_batch import hold_estimate
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.sampling.plan import Plan
from ldm_core.sampling.run import LatentOptions, times_of


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
    start, noise = (Streams([mix_seed(word, s) for s in plan.seeds], model.device) for word in ("start", "noise"))
    times = options.passage.times(times_of(model, parts, plan.steps, plan.shape))
    x = options.passage.start(model.schedule, times[0], start.normal((len(plan.seeds), *plan.shape)))
    predict, guidance = make_predict(model, together=options.together), parts.named.get("guidance")

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        t = torch.as_tensor(t, dtype=times.dtype, device=x.device).expand(len(x))
        with inside(guidance, "guide"):
            estimate = parts.guidance.guide(predict, x, t, conditions, model.schedule)
        hold_estimate(guidance, "guide", estimate, x)
        if options.project is None or options.keep_eps:
            return estimate._replace(project=options.project)
        return estimate._replace(x0=options.project(estimate.x0))

    yield Loop(x, times, model.schedule, denoise, noise)
