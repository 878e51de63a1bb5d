"""The beginning and the end of a sampling run: pure noise and data, or levels between them.

With `strength` s a run begins from a picture's latents, noised to the level from which int(s * steps) of the grid's
steps remain (Meng et al. 2021, arXiv 2108.01073; the count is Stable Diffusion's). With `stop` s the last
int(s * steps) are left out, so that another model may go on from there with the same number as its strength.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Sequence, Sized
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from ldm_core.contracts import FirstStage, NoiseSchedule
from ldm_core.data.collate import to_images
from ldm_core.data.fit_notes import fit_note, multiple_of
from ldm_core.data.geometry import fit
from ldm_core.data.images import to_channels, to_planes
from ldm_core.errors import ConfigError, DataError, clean, quoted
from ldm_core.model.tiles.tiling import Tiling
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.finite import finite_rows

STRENGTH = 0.75
"""The strength of a picture without one: the published scripts' default."""


class FittedWarning(UserWarning):
    """A picture to begin from was shrunk, cropped or padded."""


@attrs.frozen(eq=False)
class Passage:
    """One part of a time grid, and the latents at its beginning.

    `latents` (N, C, *s) are gone through in turn; they are noised to the first level, or are there already if `noised`.
    None is pure noise.
    """

    strength: float = 1.0
    stop: float = 0.0
    latents: Tensor | None = None
    noised: bool = False

    def times(self, times: Tensor) -> Tensor:
        """Cut `times` (steps + 1,) to the levels of this run. :class:`ConfigError` if no step is left."""
        steps = len(times) - 1
        begin, end = int(self.strength * steps), int(self.stop * steps)
        if begin < 1:
            raise ConfigError(
                f"strength={self.strength:g}: none of {steps} steps is left; give {1 / steps:.3g} or more"
            )
        if end >= begin:
            raise ConfigError(
                f"stop={self.stop:g}: of the {begin} steps that strength={self.strength:g} leaves of {steps}, the last "
                f"{end} are left out, and none is left; give less"
            )
        return times[steps - begin : steps + 1 - end]

    def of(self, rows: Sequence[int]) -> Passage:
        """Pick some of a run's images by number."""
        if self.latents is None:
            return self
        count = len(self.latents)
        return attrs.evolve(self, latents=self.latents[[i % count for i in rows]])

    def described(self) -> dict[str, str]:
        """Describe the passage for a picture's metadata; nothing for a whole run from noise."""
        given = {"strength": self.strength} if self.latents is not None else {}
        if self.stop:
            given["stop"] = self.stop
        return {name: f"{value:g}" for name, value in given.items()}

    def start(self, schedule: NoiseSchedule, t: Tensor, noise: Tensor) -> Tensor:
        """Make x (B, C, *s) at level `t` () from standard normal `noise` of that shape."""
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        if self.latents is None:
            return noise * math.sqrt(alpha**2 + sigma**2)
        latents = self.latents.to(noise)
        return latents if self.noised else alpha * latents + sigma * noise


def _share(least: float, most: float, words: str) -> Callable[[Any, attrs.Attribute[float], Any], None]:
    """Hold a share of the steps to its range; `least` and `most` are within it."""

    def hold(_: Any, attribute: attrs.Attribute[float], value: Any) -> None:
        whole = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (whole and least <= value <= most):
            shown = f"{value:g}" if whole else quoted(value)
            raise ConfigError(f"{attribute.name}={shown}: expected a share of the steps, {words}")

    return hold


@attrs.frozen(eq=False)
class Start:
    """The beginning and the end of a sampling run, made by :meth:`image`, :meth:`latents` or :meth:`noise`.

    `strength` and `stop` are shares of the steps: so many remain, and so many of all are left out at the end. With
    `stop`, the results' ``latents`` are at that level, and their pictures are the model's estimates.
    """

    kind: Literal["image", "latents", "noise"] = "noise"
    given: Any = attrs.field(default=None, repr=False)
    strength: float = attrs.field(default=1.0, validator=_share(math.ulp(0.0), 1.0, "above 0 and up to 1"))
    stop: float = attrs.field(default=0.0, validator=_share(0.0, math.nextafter(1.0, 0.0), "from 0 to below 1"))

    def __attrs_post_init__(self) -> None:
        if self.kind != "noise" and _is_empty(self.given):
            raise ConfigError(f"{self.kind}: an empty list; give one, or leave it out")

    @classmethod
    def image(cls, picture: Any, *, strength: float = STRENGTH, stop: float = 0.0) -> Start:
        """Begin from a picture (``PIL.Image``, or uint8 (c, H, W)) or several, in turn, in place of noise.

        It is fitted to the model's size, encoded, and noised so that the share `strength` of the steps remains.
        """
        return cls("image", picture, strength, stop)

    @classmethod
    def latents(cls, latents: Any, *, strength: float, stop: float = 0.0) -> Start:
        """Go on from latents, float (C, *s) or several, in turn, of a run whose `stop` was this `strength`."""
        return cls("latents", latents, strength, stop)

    @classmethod
    def noise(cls, *, stop: float = 0.0) -> Start:
        """Begin from pure noise, as a run without a start does, and leave the share `stop` of the steps out."""
        return cls(stop=stop)


def passage(start: Start, recipe: Recipe, stage: FirstStage, device: torch.device, batch: int = 16) -> Passage:
    """Settle the beginning and the end of a run: fit pictures to the recipe's size, and encode them to the mode.

    Raises :class:`ConfigError` for latents of another shape, :class:`DataError` for values that are no picture.
    """
    if start.kind == "latents":
        return Passage(start.strength, start.stop, _checked(start.given, recipe).to(device), noised=True)
    if start.kind == "noise":
        return Passage(start.strength, start.stop)
    begun = encoded(pictures(start.given, recipe), stage, device, batch, Tiling.of(recipe.sample))
    return Passage(start.strength, start.stop, begun)


def _is_empty(given: Any) -> bool:
    if _is_array(given):
        return tuple(given.shape[:1]) == (0,)
    return isinstance(given, Sized) and len(given) == 0


def _is_array(given: Any) -> bool:
    return isinstance(given, np.ndarray | Tensor)


def _is_picture(given: Any) -> bool:
    from PIL import Image

    return isinstance(given, Image.Image)


def pictures(image: Any, recipe: Recipe) -> list[np.ndarray]:
    """Make one picture or several uint8 (c, H, W), of the recipe's size and channels."""
    found = []
    for name, one in _listed(image):  # a loop: a comprehension is a frame more, and the warning names the caller's
        found.append(_fitted(one, recipe, name))
    return found


def unfitted(image: Any, channels: int) -> list[np.ndarray]:
    """Make one picture or several of one size uint8 (channels, H, W); :class:`DataError` for other sizes."""
    found = [_planes(one, name, channels) for name, one in _listed(image)]
    if not found:
        raise DataError("images: none; give one or several")
    for i, one in enumerate(found):
        if one.shape != found[0].shape:
            raise DataError(f"image {i} is of {one.shape[1:]} and image 0 of {found[0].shape[1:]} (height, width)")
    return found


def _listed(image: Any) -> list[tuple[str, Any]]:
    """Each picture with its name for messages."""
    several = list(image) if isinstance(image, list | tuple) or (_is_array(image) and image.ndim == 4) else [image]
    return [(f"image {i}" if len(several) > 1 else "image", one) for i, one in enumerate(several)]


def _planes(picture: Any, name: str, channels: int) -> np.ndarray:
    if _is_picture(picture):
        try:
            picture = _on_white(picture)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's, of a file that it opened and cannot read
            raise DataError(f"{name}: its picture cannot be read ({clean(error)})") from None
    try:
        array = np.asarray(picture)
    except (ValueError, TypeError, RuntimeError) as error:  # a ragged list, a tensor that needs gradients or is remote
        raise DataError(f"{name}: {clean(error)}; expected a PIL image or uint8 (channels, height, width)") from None
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{name}: expected a PIL image or uint8 values (channels, height, width) with 1 or 3 channels, got "
            f"{array.dtype} {array.shape}"
        )
    return to_channels(array, channels)


def _fitted(picture: Any, recipe: Recipe, name: str) -> np.ndarray:
    array = _planes(picture, name, recipe.image_channels)
    if array.shape[1:] == tuple(recipe.image_size):
        return array
    source = (array.shape[1], array.shape[2])
    if line := fit_note(name, source, recipe.image_size, recipe.data.fit, multiple=multiple_of(recipe)):
        warnings.warn(line, FittedWarning, stacklevel=6)
    fitted: np.ndarray = fit({"image": array}, {"image": "image"}, recipe.image_size, recipe.data.fit)["image"]
    return fitted


def _on_white(picture: Any) -> np.ndarray:
    from PIL import Image

    whole = picture.convert("RGBA")
    return to_planes(Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB"))


@torch.no_grad()
def encoded(
    arrays: Sequence[np.ndarray], stage: FirstStage, device: torch.device, batch: int, tiling: Tiling | None = None
) -> Tensor:
    """Encode pictures (c, H, W) of one size to the mode (N, C, *s), large ones as `tiling` has it; :class:`DataError`
    where it is not finite."""
    parts, tiling = [], tiling or Tiling()
    for i in range(0, len(arrays), batch):
        x = to_images(arrays[i : i + batch]).to(device)
        parts.append(stage.latents(tiling.moments(stage, x)))
    found = torch.cat(parts)
    if not (fine := finite_rows(found)).all():
        raise DataError(
            f"image {fine.tolist().index(False)}: the first stage makes latents of it that are not finite (NaN or "
            "infinite); `weights.describe` names weights that hold NaN"
        )
    return found


def _checked(latents: Any, recipe: Recipe) -> Tensor:
    shape = tuple(recipe.first_stage.config.latent.shape(recipe.image_size))
    expected = f"latents: expected floating values of shape {shape} for each image"
    try:
        if isinstance(latents, list | tuple):
            latents = torch.stack([torch.as_tensor(one) for one in latents])
        z = torch.as_tensor(latents).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{expected}, got {clean(type(latents).__name__)} ({clean(error, 120)})") from None
    if z.dim() == len(shape):
        z = z[None]
    if tuple(z.shape[1:]) != shape or not z.is_floating_point():
        raise ConfigError(f"{expected}, got {z.dtype} {tuple(z.shape)}")
    z = z.float()
    if not (fine := finite_rows(z)).all():
        number = fine.tolist().index(False)
        raise ConfigError(f"latents: those of image {number} hold values that are not finite (NaN or infinite)")
    return z
