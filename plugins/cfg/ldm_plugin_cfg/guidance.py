"""Classifier-free guidance: one scale or several, rescaled, within an interval of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ldm_core.contracts import Estimate, Guidance, NoiseSchedule, Predict, Site
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import per_example
from ldm_core.sampling.guidance_interval import choose, inside
from ldm_plugin_cfg.config import CFGConfig

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions


class ClassifierFreeGuidance(Guidance):
    """x0 = u + scale (c - u), u and c the estimates without and with all conditions.

    x0 is linear in the predicted noise (and in v, and in the flow) with one factor for both, so this is the
    published rule eps = eps_u + scale (eps_c - eps_u). Both branches go into one call of `predict`, the
    unconditional one first; scale 1 asks for the conditional one alone, scale 0 for the other. Channels
    beyond x0's are the last branch's.

    `scales` turns conditioners on one after the other, x0 = b_0 + sum_k s_k (b_k - b_k-1), b_k with the first k of
    them on (Brooks et al. 2023, arXiv 2211.09800, equation 3). Neighbours of one scale are one link of the chain;
    equal scales are plain guidance. Branches whose factor is 0 are not evaluated.

    `rescale` (Lin et al. 2024, arXiv 2305.08891, section 3.4): the network's output, F in x0 = c_skip x + c_out F,
    keeps the guided direction and gets the standard deviation, over all but the batch, of the last branch's F, as in
    published code; a mean of both by the share `rescale`.

    `interval` (Kynkaanniemi et al. 2024, arXiv 2404.07724): guidance at low < sigma / alpha <= high; elsewhere the
    conditional branch alone is evaluated.
    """

    def __init__(self, config: CFGConfig, site: Site | None = None) -> None:
        self.config = config
        self._parameterization = None if site is None else site.parameterization
        if config.rescale and self._parameterization is None:
            raise ConfigError(
                "guidance.rescale: it acts on the network's output, and the site of cfg has no parameterization; give "
                "it with Site(parameterization=...)"
            )

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        rows = inside(self.config.interval, t, schedule)
        if rows is not None and not bool(rows.any()):
            return predict(x, t, [conditions.cond])[0]
        sets, scales = chain(self.config, conditions.names)
        branches = [conditions.pick(names) for names in sets]
        asked = branches if rows is None or branches[-1] is conditions.cond else [*branches, conditions.cond]
        estimates = predict(x, t, asked)
        plain, found = estimates[-1], estimates[: len(branches)]
        x0 = found[0].x0
        for scale, before, after in zip(scales, found, found[1:], strict=False):
            x0 = x0 + scale * (after.x0 - before.x0)
        if self.config.rescale and len(found) > 1:
            x0 = self._rescaled(x0, found[-1].x0, x, t, schedule)
        return Estimate(choose(rows, x0, plain.x0), plain.extra)

    def _rescaled(self, x0: Tensor, reference: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """`x0` with the deviation of `reference`, both as F; c_out, which they share, cancels."""
        assert self._parameterization is not None
        t = t.double()
        skipped = per_example(self._parameterization.coefficients(schedule.alpha(t), schedule.sigma(t))[0], x) * x
        f, aim = x0 - skipped, (reference - skipped).flatten(1).std(1)
        now = f.flatten(1).std(1)
        ratio = torch.where(now > 0, aim / now.clamp(min=torch.finfo(now.dtype).tiny), torch.ones_like(now))
        factor = self.config.rescale * ratio + (1 - self.config.rescale)
        return skipped + per_example(factor, x) * f


def chain(config: CFGConfig, names: Sequence[str]) -> tuple[list[tuple[str, ...]], list[float]]:
    """Name the conditioners of each branch, a part of the next one's, and the scale from each branch to the next."""
    rest = tuple(n for n in names if n not in config.scales)
    links = [*(((name,), scale) for name, scale in config.scales.items()), *([(rest, config.scale)] if rest else [])]
    sets: list[tuple[str, ...]] = [()]
    scales: list[float] = []
    on: tuple[str, ...] = ()
    for added, scale in links:
        on += added
        if scales and scales[-1] == scale:
            sets[-1] = on
        else:
            sets.append(on)
            scales.append(scale)
    if scales and scales[0] == 1.0:  # b_0 + 1 (b_1 - b_0)
        sets, scales = sets[1:], scales[1:]
    if scales and scales[-1] == 0.0:
        sets, scales = sets[:-1], scales[:-1]
    return sets, scales
