"""The two pictures of a pair."""

from __future__ import annotations

from torch import Tensor

from ldm_core.contracts import Pictures
from ldm_core.errors import DataError


def pair(pictures: Pictures, name: str, least: int = 1) -> tuple[Tensor, Tensor]:
    """The reconstructions and their originals, (B, c, H, W) uint8 each; `name` is the metric's.

    DataError without originals, for other shapes, and for a side below `least`.
    """
    images, originals = pictures.images, pictures.originals
    if originals is None:
        raise DataError(
            f"{name} compares reconstructions with their originals; evaluate a model, or two folders of pairs"
        )
    if images.shape != originals.shape:
        ours, theirs = tuple(images.shape[1:]), tuple(originals.shape[1:])
        raise DataError(
            f"{name}: a picture is {ours} and its original {theirs} (channels, height, width); give pairs of one shape"
        )
    if min(images.shape[2:]) < least:
        raise DataError(
            f"{name}: pictures have at least {least} pixels a side, and these have {tuple(images.shape[2:])}; use psnr"
        )
    return images, originals
