"""Pictures of any size as pictures of one size: the filter, the cut, and the check of what data sets hand out."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data import geometry
from ldm_core.data.images import to_channels, to_picture, to_planes
from ldm_core.errors import DataError

Filter: TypeAlias = Literal["bicubic", "bilinear", "lanczos", "box"]
Rule: TypeAlias = Literal["crop", "pad"]


@attrs.frozen
class Fitting:
    """The way from a stored picture to one of `size` (H, W): centred, by Pillow's antialiased `filter`, cut to the
    size's aspect (``crop``) or padded with white (``pad``). Without a size pictures stay as they are stored."""

    size: tuple[int, int] | None = None
    channels: int = 3
    rule: Rule = "crop"
    filter: Filter = "bicubic"

    def plain(self) -> dict[str, Any]:
        """The settings for a protocol."""
        return {"size": list(self.size) if self.size else None, "channels": self.channels} | (
            {"fit": self.rule, "filter": self.filter} if self.size else {}
        )

    def __call__(self, example: dict[str, Any], keys: dict[str, str], name: str) -> dict[str, Any]:
        """An example with everything in it moved along with its picture; `image` uint8 (c, H, W)."""
        if isinstance(example.get("image"), np.ndarray):
            require_levels(example["image"], name)
        if self.size is None:
            moved = dict(example)
        else:
            moved = geometry.fit(example, keys, self.size, self.rule)
            if self.filter != "bicubic" and "image" in example:
                moved["image"] = _resized(example["image"], self.size, self.rule, self.filter)
        if "image" in moved:
            image = moved["image"]
            planes = image if isinstance(image, np.ndarray) else to_planes(image)
            moved["image"] = to_channels(planes, self.channels)
        return moved


def require_levels(image: Any, name: str) -> NDArray[np.uint8]:
    """A picture (c, H, W) or pictures (N, c, H, W), if uint8 with 1 or 3 channels; DataError else."""
    array = np.asarray(image)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: the picture holds NaN or infinity; pictures are uint8, 0 to 255")
    if array.dtype != np.uint8:
        raise DataError(
            f"{name}: the picture is {array.dtype}; pictures are uint8, 0 to 255: round and clip it there, so that a "
            "figure is of pictures as they are saved"
        )
    if array.ndim not in (3, 4) or array.shape[-3] not in (1, 3) or 0 in array.shape:
        raise DataError(f"{name}: the picture has the shape {array.shape}; expected (c, H, W) with 1 or 3 channels")
    return array


def _resized(image: Any, size: tuple[int, int], rule: Rule, filter: Filter) -> NDArray[np.uint8]:
    """One picture at `size` by another filter than the core's."""
    from PIL import Image

    picture = to_picture(image) if isinstance(image, np.ndarray) else image
    step = geometry.plan((picture.height, picture.width), size, rule)
    made = picture.resize((step.resized[1], step.resized[0]), Image.Resampling[filter.upper()])
    planes = to_planes(made)
    out = np.full((len(planes), *size), geometry.IMAGE_PADDING, np.uint8)
    (top, left), (height, width) = step.offset, step.resized
    rows = slice(max(top, 0), min(top + height, size[0])), slice(max(left, 0), min(left + width, size[1]))
    out[:, rows[0], rows[1]] = planes[
        :, rows[0].start - top : rows[0].stop - top, rows[1].start - left : rows[1].stop - left
    ]
    return out
