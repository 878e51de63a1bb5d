"""Inpainting with any model: the known part of a picture takes the place of the estimate's at each step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_core.contracts import Batch, Estimate, Guidance, NoiseSchedule, Predict, Site
from ldm_core.errors import ConfigError
from ldm_core.sampling.guidance_interval import choose, inside
from ldm_plugin_image_guiding.config import BlendConfig
from ldm_plugin_image_guiding.pictures import holes_of, known_of, pictures_of

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions


class _Known(NamedTuple):
    """A run's pictures (B, c, H, W), their holes (B, 1, H, W), latents (B, C, *s) and the cells (B, 1, *s) to keep."""

    pictures: Tensor
    holes: Tensor
    latents: Tensor
    keep: Tensor


class Blend(Guidance):
    """x0 is the known part, and the model's estimate in the holes.

    A sampler then steps the known part along the forward process itself: x = alpha known + sigma eps, with its own
    noise. Latents are known in cells without any hole's pixel. With `space` pixels the estimate is decoded, the known
    pixels are put over it, and it is encoded again.
    """

    def __init__(self, config: BlendConfig, site: Site) -> None:
        if site.encode is None or site.decode is None:
            raise ConfigError("blend: needs the first stage's encode and decode at its site")
        self.config = config
        self._encode, self._decode = site.encode, site.decode
        self._size, self._channels = tuple(site.size), site.channels

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate with the known part in it."""
        estimate = predict(x, t, [conditions.cond])[0]
        rows = inside(self.config.interval, t, schedule)
        if rows is not None and not bool(rows.any()):
            return estimate
        known = conditions.again(partial(self._known, tuple(x.shape[2:])), self)
        if self.config.space == "pixels":
            whole = torch.where(known.holes, self._decode(estimate.x0), known.pictures)
            joined = self._encode(whole).to(estimate.x0)
        else:
            joined = torch.where(known.keep, known.latents.to(estimate.x0), estimate.x0)
        return Estimate(choose(rows, joined, estimate.x0), estimate.extra)

    def _known(self, cells: tuple[int, ...], inputs: Batch) -> _Known:
        pictures = pictures_of(inputs, self.config.image, self._channels, self._size)
        holes = holes_of(inputs, self.config.mask, pictures)
        keep = F.adaptive_max_pool2d(holes.float(), list(cells)) == 0
        return _Known(pictures, holes, self._encode(smooth(pictures, holes)).float(), keep)

    def known(self, example: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """The known pixels of an image's inputs, for those who paste them."""
        return known_of(example, self.config.image, self.config.mask) if self.config.paste else None


def smooth(pictures: Tensor, holes: Tensor) -> Tensor:
    """`pictures` (B, c, H, W) with a smooth filling of `holes` (B, 1, H, W): means of the known pixels around, of ever
    wider cells. The picture's own values there say nothing, and would shine into the latents beside."""
    known = (~holes).to(pictures)
    sums, counts = [pictures * known], [known]
    while max(sums[-1].shape[2:]) > 1:
        height, width = sums[-1].shape[2:]
        size = ((height + 1) // 2, (width + 1) // 2)
        sums.append(F.adaptive_avg_pool2d(sums[-1], size))
        counts.append(F.adaptive_avg_pool2d(counts[-1], size))
    filled = sums[-1] / counts[-1].clamp(min=1e-12)
    for total, count in zip(reversed(sums[:-1]), reversed(counts[:-1]), strict=True):
        coarse = F.interpolate(filled, size=list(total.shape[2:]), mode="bilinear", align_corners=False)
        filled = torch.where(count > 0, total / count.clamp(min=1e-12), coarse)
    return filled
