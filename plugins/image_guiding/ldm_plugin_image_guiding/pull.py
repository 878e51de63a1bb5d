"""Guidance by a loss of the decoded estimate: the base of all targets, and those of pixels.

With the posterior of x0 given x approximately N(m, C), C = sigma² / alpha dm/dx (Tweedie's formula once more), the
paper's correction of eps, -sigma grad log p(y | x), moves the estimate m by d = -C grad L, where L = -log p(y | picture
of m) and the gradient is taken at m: sigma² / alpha times the gradient with respect to x, through the denoiser.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_core.contracts import Batch, Estimate, Guidance, NoiseSchedule, Predict, Site
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import per_example
from ldm_core.nn.recompute import in_little_memory
from ldm_core.sampling.guidance_interval import choose, inside
from ldm_plugin_image_guiding.config import KnownPixelsTargetConfig, LowResolutionTargetConfig, PullConfig
from ldm_plugin_image_guiding.pictures import holes_of, known_of, pictures_of

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions

FARTHEST = (64.0, 16.0, 4.0, 2.0)
"""The longest moves along one direction, in deviations of x0, that are tried one after the other."""

Loss: TypeAlias = "Callable[[Tensor], Tensor]"
"""Pictures (B, c, H, W) on the scale of [-1, 1] -> the negative log likelihood of each, (B,), up to a constant."""


class ImageTarget(Guidance):
    """The estimate m is moved to m + strength (m' - m), m' near the minimum of L + ½ (m' - m) C^-1 (m' - m).

    A subclass says the loss L by :meth:`loss`, and its config derives from
    :class:`~ldm_plugin_image_guiding.config.PullConfig` and names the inputs in `reads`. m is the estimate under all
    conditions or, among a recipe's `guides`, the guided one; gradients pass its networks and the decoder, whose blocks
    keep what enters them alone and run again in the backward pass.

    `step` published: m' = m + d, the paper's formula. fitted: `iterations` of conjugate gradients in C's own metric,
    the first one along d, each to its line's minimum, by L's curvature in one more decoding, and up to four where the
    minimum lies far. Of a linear denoiser and decoder and a loss of squares, m' is the exact posterior mean after as
    many iterations as there are different eigenvalues among the measurements: one, if they are alike and independent.
    A steep loss does not overshoot, and a flat one leads beyond a deviation of x0 only where it has been found to
    fall. Levels without signal (alpha 0) are left alone.
    """

    def __init__(self, config: PullConfig, site: Site) -> None:
        if site.decode is None:
            raise ConfigError("image guiding looks at decoded estimates; it needs the first stage's decode at its site")
        self.config = config
        self._decode = site.decode

    @abstractmethod
    def loss(self, inputs: Batch) -> Loss:
        """The loss of pictures beside a batch's `inputs`, made once a run. DataError for unfit inputs."""
        ...

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate, moved towards the target."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        rows = inside(self.config.interval, t, schedule)
        seen = alpha > 0 if rows is None else rows & (alpha > 0).to(rows.device)
        if self.config.strength == 0 or not bool(seen.any()):
            return predict(x, t, [conditions.cond])[0]
        loss = conditions.again(self.loss, self)
        outer = torch.is_grad_enabled() and x.requires_grad
        with torch.set_grad_enabled(outer or self.config.through_denoiser), in_little_memory():
            start = x if outer or not self.config.through_denoiser else x.detach().requires_grad_()
            estimate = predict(start, t, [conditions.cond])[0]
        x0 = estimate.x0.detach()
        spread = sigma**2 / (alpha**2 + sigma**2)
        if self.config.through_denoiser:
            gain = per_example(sigma**2 / alpha.clamp(min=1e-12), x0)

            def c(vector: Tensor) -> Tensor:
                (found,) = torch.autograd.grad(estimate.x0, start, vector.to(estimate.x0), retain_graph=True)
                return gain * found.float()

        else:
            variance = per_example(spread, x0)

            def c(vector: Tensor) -> Tensor:
                return variance * vector

        moved = self.config.strength * self._moved(loss, x0, c, spread)
        kept = estimate.x0 if outer else x0
        extra = estimate.extra if outer or estimate.extra is None else estimate.extra.detach()
        return Estimate(choose(None if bool(seen.all()) else seen, kept + moved, kept), extra)

    def _moved(self, loss: Loss, x0: Tensor, c: Callable[[Tensor], Tensor], spread: Tensor) -> Tensor:
        """m' - m. `c` multiplies by C; `spread` (B,) is about the variance of x0 given x."""
        value, slope = self._at(loss, x0)
        if self.config.step == "published":
            return -c(slope)
        moved, weights = torch.zeros_like(x0), torch.zeros_like(x0)  # moved = -C weights
        along, p, before = torch.zeros_like(x0), torch.zeros_like(x0), None
        for i in range(self.config.iterations):
            if i:
                value, slope = self._at(loss, x0 + moved)
            rest = slope - weights  # the gradient of the whole
            d = -c(rest)
            now = -_dot(rest, d)
            turn = per_example(torch.zeros_like(now) if before is None else _share(now, before), x0)
            along, p, before = rest + turn * along, d + turn * p, now
            k = per_example(self._length(loss, x0 + moved, value, (slope, rest, along), p, spread), p)
            moved, weights = moved + k * p, weights + k * along
        return moved

    def _at(self, loss: Loss, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (B,) of a picture of x0, and its gradient there."""
        with torch.enable_grad(), in_little_memory():
            start = x0.detach().requires_grad_()
            value = loss(self._decode(start))
            (slope,) = torch.autograd.grad(value.sum(), start)
        return value.detach(), slope.float()

    @torch.no_grad()
    def _length(
        self, loss: Loss, x0: Tensor, value: Tensor, slopes: tuple[Tensor, Tensor, Tensor], p: Tensor, spread: Tensor
    ) -> Tensor:
        """(B,) the minimum of the whole along p from x0; 0 where it does not fall. `slopes` at x0: of the loss, of the
        whole, and C^-1 p.

        The curvature is measured over h, at which p is about one deviation of x0. A minimum beyond h is guessed from
        it, so it is taken, at :data:`FARTHEST` h at most, only where the whole is no higher there than at h.
        """
        slope, rest, along = slopes
        fall, metric, linear = (-_dot(rest, p)).double(), (-_dot(along, p)).double(), _dot(slope, p).double()
        size = p.flatten(1).square().mean(1).sqrt()
        h = (spread.to(size).sqrt() / size.clamp(min=1e-12)).clamp(max=1.0)

        def risen(k: Tensor) -> Tensor:
            """(B,) the loss at x0 + k p, less that at x0."""
            return loss(self._decode(x0 + per_example(k, p) * p)).double() - value.double()

        ahead = risen(h)
        bend = (2 * (ahead - h.double() * linear) / h.double() ** 2).clamp(min=0)
        best = (fall / (metric + bend).clamp(min=1e-30)).to(h)
        k = torch.where((fall > 0) & (metric > 0), best, torch.zeros_like(best))
        if bool((k <= h).all()):
            return k
        found, done = torch.minimum(k, h), k <= h  # as far as the curvature was measured

        def prior(k: Tensor) -> Tensor:
            return 0.5 * metric * k.double() ** 2 - (fall + linear) * k.double()

        for most in FARTHEST:
            further = torch.minimum(k, most * h)
            better = ~done & (risen(further) + prior(further) <= ahead + prior(h))
            found, done = torch.where(better, further, found), done | better
            if bool(done.all()):
                break
        return found


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _share(now: Tensor, before: Tensor) -> Tensor:
    """The share of the last direction in the next one; none where the last one was no way down."""
    return torch.where(before > 0, now / before.clamp(min=1e-30), torch.zeros_like(now)).clamp(0, 10)


class LowResolutionTarget(ImageTarget):
    """L = sum of (small(picture) - y)² / (2 deviation²), small the reduction by the config's factor, as training's
    conditioner `low_resolution` has it, and y (B, c, H / factor, W / factor)."""

    config: LowResolutionTargetConfig

    def __init__(self, config: LowResolutionTargetConfig, site: Site) -> None:
        super().__init__(config, site)
        self._size = tuple(side // config.factor for side in site.size)
        self._channels = site.channels

    def loss(self, inputs: Batch) -> Loss:
        """See :class:`ImageTarget`."""
        wanted = pictures_of(inputs, self.config.image, self._channels, self._size)

        def loss(pictures: Tensor) -> Tensor:
            return _squares(_small(pictures, wanted.shape[2:], self.config.reduce) - wanted, self.config.deviation)

        return loss


class KnownPixelsTarget(ImageTarget):
    """L = sum over the known pixels of (picture - y)² / (2 deviation²)."""

    config: KnownPixelsTargetConfig

    def __init__(self, config: KnownPixelsTargetConfig, site: Site) -> None:
        super().__init__(config, site)
        self._size, self._channels = tuple(site.size), site.channels

    def loss(self, inputs: Batch) -> Loss:
        """See :class:`ImageTarget`."""
        wanted = pictures_of(inputs, self.config.image, self._channels, self._size)
        known = ~holes_of(inputs, self.config.mask, wanted)

        def loss(pictures: Tensor) -> Tensor:
            return _squares((pictures - wanted) * known, self.config.deviation)

        return loss

    def known(self, example: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """The known pixels of an image's inputs, for those who paste them."""
        return known_of(example, self.config.image, self.config.mask) if self.config.paste else None


def _squares(error: Tensor, deviation: float) -> Tensor:
    return error.float().square().flatten(1).sum(1) / (2 * deviation**2)


def _small(pictures: Tensor, size: torch.Size, reduce: str) -> Tensor:
    if reduce == "area":
        return F.adaptive_avg_pool2d(pictures, (size[0], size[1]))
    return F.interpolate(pictures, size=list(size), mode="bicubic", align_corners=False, antialias=True)
