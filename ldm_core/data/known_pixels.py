"""Known pixels of a picture are pasted over the sampled ones: inpainting changes its holes alone.

A conditioner or a guidance that is given such pictures says so by a method ``known(example) -> (picture, known) |
None``: uint8 (c, H, W), and booleans (H, W) of the pixels that are to stay, as arrays or tensors on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts.answers import PartAnswers
from ldm_core.contracts.config import of

KEY = "paste_known"
"""The setting of ``sample``, and what a picture's metadata call it."""
SEAMS = "seams"
_OLDER: Mapping[str, object] = {KEY: False, SEAMS: "none"}
"""Settings that older recipes lack, as they were sampled."""
Joined = Callable[[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.uint8]]
"""(picture, sample, known) -> the sample, led up to the known pixels."""


def pasted(
    conditioners: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    pictures: NDArray[np.uint8],
    feather: int = 0,
    join: Joined | None = None,
) -> NDArray[np.uint8]:
    """`pictures` (B, c, H, W) with the known pixels of `rows`, the inputs of each, bit for bit where they have any.

    Known pixels up to `feather` pixels from a hole fade into it; those further away stay bit for bit. `join` changes
    the samples before that, in their holes.
    """
    makers = list(_makers(conditioners.values()))
    if not makers:
        return pictures
    out = pictures.copy()
    for one, row in zip(out, rows, strict=True):
        for picture, known in (map(np.asarray, pair) for pair in (make(row) for make in makers) if pair is not None):
            if picture.shape == one.shape:
                if join is not None:
                    one[:] = join(picture, one, known)
                one[:, known] = _faded(picture, one, known, feather)[:, known] if feather else picture[:, known]
    return out


def _faded(
    picture: NDArray[np.uint8], sample: NDArray[np.uint8], known: NDArray[np.bool_], feather: int
) -> NDArray[np.uint8]:
    """The known picture, its part at a pixel growing with the distance from the nearest hole: d / (`feather` + 1), and
    1 beyond. Distances are counted in steps to a side and, every second one, to a corner as well."""
    part, reached = np.ones(known.shape, dtype=np.float32), ~known
    for distance in range(1, feather + 1):
        wider = _grown(reached, corners=distance % 2 == 0)
        part[wider & ~reached] = distance / (feather + 1)
        if (wider == reached).all():
            break
        reached = wider
    return np.rint(picture * part + sample * (1 - part)).astype(np.uint8)


def _grown(region: NDArray[np.bool_], *, corners: bool) -> NDArray[np.bool_]:
    """A region and the pixels at its sides, or at its corners too."""
    down = region.copy()
    down[1:] |= region[:-1]
    down[:-1] |= region[1:]
    base = down if corners else region
    out = down.copy()
    out[:, 1:] |= base[:, :-1]
    out[:, :-1] |= base[:, 1:]
    return out


def described(conditioners: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a picture's metadata: none if no conditioner is given known pixels."""
    return {KEY: "true"} if any(True for _ in _makers(conditioners.values())) else {}


def _makers(conditioners: Iterable[object]) -> Iterator[Callable[[Mapping[str, Any]], tuple[Any, Any] | None]]:
    for conditioner in conditioners:
        if (known := of(PartAnswers, conditioner).known) is not None:
            yield known


def as_made(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored recipe as it was sampled when it was made: one without these settings is older, and pastes nothing, or
    joins nothing."""
    sample = config.get("sample")
    lacks = {k: v for k, v in _OLDER.items() if k not in sample} if isinstance(sample, Mapping) else {}
    return {**config, "sample": {**sample, **lacks}} if lacks and isinstance(sample, Mapping) else config


def notice(config: Mapping[str, Any], conditioners: Iterable[Any]) -> str:
    """The notice to users of older weights, if it concerns them; `config`: the recipe as it is stored."""
    sample = config.get("sample")
    older = isinstance(sample, Mapping) and KEY not in sample
    if not older or not any(True for _ in _makers(conditioners)):
        return ""
    return (
        f"was made before sample.{KEY}: its samples are the model's in every pixel, as they were; "
        f"sample.{KEY}=true pastes the known ones"
    )
