"""The masked-image conditioner: the picture without its holes, as latents, and the places of the holes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Site
from ldm_core.data.inputs.masks import holes as holes_of
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_masked_image.config import MaskedImageConfig


class MaskedImageConditioner(Conditioner, nn.Module):
    """Pictures (B, c, H, W) in [-1, 1] and masks (B, H, W) -> concat (B, C + 1, h, w): C channels of the first stage's
    latents of the picture with black holes, then the mask, 1 in holes and -1 elsewhere (`hole` and `outside` say so).

    Nothing is learned or drawn: the first stage encodes without noise, in float32 whatever the autocast. ConfigError
    without a first stage at construction.
    """

    def __init__(self, config: MaskedImageConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None or site.encode is None:
            raise ConfigError("masked_image: needs the first stage's latents and its encode; build it behind one")
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent)
        self._encode = site.encode  # a function, so that the first stage is not registered here

    def encode(self, batch: Batch) -> Cond:
        """Encode pictures with holes. Masks: booleans, floats (.5 and above is a hole) or integers (see :func:`holes`),
        as a tensor or B arrays, (H, W) or (1, H, W) each.

        DataError for a mask of another form or of another size than its picture, naming the example and both sizes.
        """
        images = batch[self.config.image]
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise DataError(f"'{self.config.image}' must be pictures of one size, (B, channels, height, width)")
        masks = batch[self.config.mask]
        rows = [self._checked(mask, i, images) for i, mask in enumerate(masks)]
        if len(rows) != len(images):
            raise DataError(f"{len(images)} pictures and {len(rows)} masks; give one mask a picture")
        hole = torch.stack(rows).to(images.device) if rows else images.new_zeros(0, *images.shape[2:]).bool()
        with torch.autocast(images.device.type, enabled=False):
            latents = self._encode(images.float().masked_fill(hole[:, None], self.config.hole)).float()
        covered = F.interpolate(hole[:, None].float(), latents.shape[2:], mode="nearest")
        plane = covered + (1 - covered) * self.config.outside
        return Cond(concat=torch.cat([latents * self.config.scale, plane], 1))

    def known(self, example: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """One example's picture, uint8 (c, H, W), and its known pixels, (H, W); None for pictures of another type.
        DataError as :meth:`encode`."""
        picture = torch.as_tensor(example[self.config.image])
        if picture.dtype != torch.uint8 or picture.dim() != 3:
            return None
        hole = self._checked(example[self.config.mask], 0, picture[None])
        return picture.cpu(), ~hole.cpu()

    def null(self, like: Cond) -> Cond:
        """`like` itself: the part to fill in is not taken away; if the config allows it, zeros for the latents and a
        mask of one large hole."""
        if not self.config.droppable or like.concat is None:
            return like
        empty = torch.zeros_like(like.concat)
        empty[:, -1] = 1.0
        return like._replace(concat=empty)

    def _checked(self, value: Any, index: int, images: Tensor) -> Tensor:
        """One mask -> (H, W) booleans."""
        mask = torch.as_tensor(value)
        if mask.dim() == 3 and mask.shape[0] == 1:
            mask = mask[0]
        if mask.shape != images.shape[2:]:
            raise DataError(
                f"'{self.config.mask}' of example {index} is {tuple(mask.shape)} and its picture "
                f"{tuple(images.shape[2:])} (height, width); they must match"
            )
        return holes(mask)


def holes(mask: Tensor) -> Tensor:
    """A mask (H, W) -> its holes, booleans of its shape and device, by the core's rule for all masks:
    :func:`ldm_core.data.inputs.masks.holes`."""
    values = mask.detach().cpu()
    found = holes_of((values.float() if values.is_floating_point() else values).numpy())
    return torch.from_numpy(found).to(mask.device)
