"""Several image sizes in one run: the choice for each example, by the size in its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts.answers import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.unreadable import BadExample


def sizes_of(dataset: Any) -> NDArray[np.int64]:
    """(N, 2) height and width of each example's picture; zeros where it cannot be read.

    A data set's own ``image_sizes()`` looks at the headers of its files only; of one without it, pictures are decoded.
    """
    if (own := of(DatasetAnswers, dataset).image_sizes) is not None:
        return np.asarray(own(), dtype=np.int64).reshape(-1, 2)
    view, found = dataset.select(["image"]), np.zeros((len(dataset), 2), dtype=np.int64)
    for index in range(len(dataset)):
        try:
            found[index] = view[index]["image"].shape[-2:]
        except BadExample:
            continue  # counted when it is trained on
    return found


def nearest(native: NDArray[np.int64], sizes: Sequence[tuple[int, int]]) -> NDArray[np.int16]:
    """(N,) the number of the size with the nearest aspect ratio on a logarithmic scale, so that 2:1 is as far from 1:1
    as 1:2 is; the first of equals, and size 0 for an unknown native size."""
    ratios = np.log([h / w for h, w in sizes])
    known = (native > 0).all(axis=1)
    own = np.log(np.where(known, native[:, 0], 1) / np.where(known, native[:, 1], 1))
    # Rounded, so that sizes of one shape (64 x 64 and 32 x 32) are equals and not told apart by rounding errors.
    chosen = np.argmin(np.round(np.abs(own[:, None] - ratios[None]), 9), axis=1)
    return np.where(known, chosen, 0).astype(np.int16)
