"""RePaint's sampler: jumps down and back up in noise, for the filled part to fit the known one."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_image_guiding.config import RePaintConfig


class RePaintSampler(Sampler):
    """Each `jump` steps are made `resamples` times: gone down and taken back by fresh noise, but for the last time.

    The steps are DDIM's with `eta`; 1 is ancestral. Noise takes x from level s back to t by the forward process,
    x = alpha_t / alpha_s x + sqrt(sigma_t² - (alpha_t / alpha_s)² sigma_s²) noise, so the marginals stay. The times
    of the run fall as everywhere; an observer is told of each step once, when it is made for the last time, and
    `run.step` grows only then. It costs about `resamples` times the evaluations. With the guidance `blend` around the
    model it is RePaint. It divides by alpha(times[i]), i > 0.
    """

    def __init__(self, config: RePaintConfig, site: Site | None = None) -> None:
        self.config = config

    def sample(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        *,
        streams: Streams | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """x (B, C, *s) at times[0] -> x at times[-1]. ValueError where noise lacks `streams`."""
        steps = Steps(denoise, times, schedule, streams, on_step)
        for begin in range(0, len(steps), self.config.jump):
            end = min(begin + self.config.jump, len(steps))
            for _ in range(self.config.resamples - 1):
                for i in range(begin, end):
                    x, _x0 = self._step(steps, i, x)
                x = _back(steps, begin, end, x)
            for i in range(begin, end):
                x, x0 = self._step(steps, i, x)
                x = steps.done(i, x, x0)
        return x

    def _step(self, steps: Steps, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """x after step i, and the estimate of x0."""
        kept, fresh = steps.ddim(i, self.config.eta)
        x0 = steps.x0(i, x)
        x = steps.euler(i, x, x0, kept)
        return (x + fresh * steps.draw(x) if fresh > 0 else x), x0


def _back(steps: Steps, begin: int, end: int, x: Tensor) -> Tensor:
    """x at times[end] -> x at times[begin], by the forward process."""
    ratio = steps.alpha[begin] / steps.alpha[end]
    return ratio * x + math.sqrt(steps.added_variance(begin, end)) * steps.draw(x)
