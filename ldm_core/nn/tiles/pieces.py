"""Convolutional networks over windows of their maps: the results of the whole, to rounding, in bounded memory.

A map is kept, or made window by window from the one before it. Each 3×3 convolution sees one more row and column than
it answers for, so that its windows meet without a seam. What looks at the whole map is found in a pass before: the mean
and deviation of a group norm, the keys and values of attention. A map that is too large to be kept is made anew in each
pass that needs it, from the last one that was kept: narrow networks are computed about once, wide ones of large
pictures several times.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["same", "up", "down"]
_TENSORS = 8
"""Tensors of the widest map that a window's convolutions hold at once, copies in the kernels' own layout included."""
_BAND = 64 << 20
"""Bytes of a band of a kept map: as much goes at a time, as the next map takes its place. A C library gives the memory
of blocks beyond 32 MiB back to the system at once; smaller ones, between those of windows, would stay."""
_LEAST = 16
"""The least rows and columns of a window; with fewer it would compute its margins above all."""


class Window(NamedTuple):
    """A part of a map: rows `top` to `bottom`, columns `left` to `right`, the ends left out."""

    top: int
    bottom: int
    left: int
    right: int


class Map(ABC):
    """A map (B, C, h, w), given by windows. `width` is the number of values a cell that a window of it takes."""

    shape: tuple[int, int, int, int]
    width: float

    @abstractmethod
    def window(self, at: Window) -> Tensor:
        """The part (B, C, rows, columns) of the map."""

    @abstractmethod
    def release(self, row: int) -> None:
        """Let go of what lies above `row`: nobody asks for it again."""

    @property
    def kept_bytes(self) -> int:
        """The bytes that the map itself holds."""
        return 0


class Kept(Map):
    """A map in memory, as bands of rows from the top."""

    def __init__(self, bands: Sequence[Tensor]) -> None:
        batch, channels, _, columns = bands[0].shape
        self.shape = (batch, channels, sum(band.shape[2] for band in bands), columns)
        self.width = channels
        tops = [0]
        for band in bands:
            tops.append(tops[-1] + band.shape[2])
        self._bands = list(zip(tops, tops[1:], bands, strict=False))

    def window(self, at: Window) -> Tensor:
        """See :meth:`Map.window`."""
        found = [
            band[:, :, max(at.top - top, 0) : at.bottom - top, at.left : at.right]
            for top, bottom, band in self._bands
            if top < at.bottom and bottom > at.top
        ]
        return found[0] if len(found) == 1 else torch.cat(found, 2)

    def release(self, row: int) -> None:
        """See :meth:`Map.release`."""
        self._bands = [band for band in self._bands if band[1] > row]

    @property
    def kept_bytes(self) -> int:
        """See :attr:`Map.kept_bytes`."""
        return sum(band.numel() * band.element_size() for _, _, band in self._bands)


class Made(Map):
    """A map that `make` computes from windows of `sources`, which share a grid: of its own size, or half or twice it.

    `make` sees `halo` cells beyond its window, or the map's border, where its convolutions pad.
    """

    def __init__(
        self,
        sources: Sequence[Map],
        make: Callable[..., Tensor],
        channels: int,
        *,
        halo: int = 0,
        scale: Scale = "same",
    ) -> None:
        batch, _, height, width = sources[0].shape
        grow = {"same": 1.0, "up": 2.0, "down": 0.5}[scale]
        self.shape = (batch, channels, int(height * grow), int(width * grow))
        self.width = max(channels, *(source.width / grow**2 for source in sources))
        self._sources, self._make, self._halo, self._scale = sources, make, halo, scale

    def window(self, at: Window) -> Tensor:
        """See :meth:`Map.window`."""
        _, _, height, width = self._sources[0].shape
        top, bottom = self._reach(at.top, at.bottom, height)
        left, right = self._reach(at.left, at.right, width)
        made = self._make(*(source.window(Window(top, bottom, left, right)) for source in self._sources))
        down, across = self._offset(at.top, top), self._offset(at.left, left)
        return made[:, :, down : down + at.bottom - at.top, across : across + at.right - at.left]

    def release(self, row: int) -> None:
        """See :meth:`Map.release`."""
        for source in self._sources:
            size = source.shape[2]
            source.release(size if row >= self.shape[2] else self._reach(row, row, size)[0])

    def _reach(self, start: int, end: int, size: int) -> tuple[int, int]:
        """The cells of the sources, along one axis, for the cells from `start` to `end`."""
        if self._scale == "down":  # cell i is made of 2i to 2i + 2
            return 2 * start, min(2 * end + 1, size)
        first, last = start - self._halo, end + self._halo
        if self._scale == "up":
            first, last = first // 2, -(-last // 2)
        return max(first, 0), min(last, size)

    def _offset(self, start: int, first: int) -> int:
        return 0 if self._scale == "down" else start - (2 * first if self._scale == "up" else first)


class Pieces:
    """Makes maps of maps within about `memory` bytes: two thirds for maps that are kept, the rest for windows."""

    def __init__(self, memory: int) -> None:
        self._keep, self._work = memory * 2 // 3, memory // 3

    @staticmethod
    def whole(x: Tensor) -> Map:
        """A tensor (B, C, h, w) as a map."""
        return Kept([x])

    def convolved(self, conv: nn.Module, x: Map, channels: int, scale: Scale = "same") -> Map:
        """The map of a padded 3×3 convolution, kept if it fits."""
        return self.settled(Made([x], conv, channels, halo=1, scale=scale))

    def settled(self, x: Map) -> Map:
        """`x` kept in the place of what it was made of, if it fits."""
        return self.held(x) if self._bytes(x) <= self._keep else x

    def beside(self, x: Map, source: Map) -> Map | None:
        """`x` kept beside the map that it is made of; None where both do not fit."""
        if not isinstance(source, Kept) or self._bytes(x) + source.kept_bytes > self._keep:
            return None
        return self.held(x, release=False)

    def tensor(self, x: Map) -> Tensor:
        """The map as one tensor."""
        out: Tensor | None = None
        for at in self.windows(x):
            part = x.window(at)
            if out is None:
                out = part.new_empty(x.shape)
            out[:, :, at.top : at.bottom, at.left : at.right] = part
            if at.right == x.shape[3]:
                x.release(at.bottom)
        assert out is not None
        return out

    def windows(self, x: Map) -> Iterator[Window]:
        """The windows that cover a map, row by row, as large as the memory allows."""
        batch, _, height, width = x.shape
        cells = max(int(self._work / (4 * _TENSORS * batch * x.width)), 1)
        columns = _even(width, max(math.isqrt(cells), _LEAST))
        rows = _even(height, max(cells // columns, _LEAST))
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                yield Window(top, min(top + rows, height), left, min(left + columns, width))

    def normed(self, norm: nn.GroupNorm, x: Map) -> Callable[[Tensor], Tensor]:
        """`norm` with the mean and deviation of the whole map, for windows of it."""
        count, mean, spread = 0, torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        for at in self.windows(x):
            part = x.window(at)
            each = part.unflatten(1, (norm.num_groups, -1)).float()
            variance, middle = (v.double() for v in torch.var_mean(each, (2, 3, 4), correction=0))
            number = each[0, 0].numel()
            apart, total = middle - mean.to(middle.device), count + number
            spread = spread.to(apart.device) + variance * number + apart**2 * (count * number / total)
            mean, count = mean.to(apart.device) + apart * (number / total), total
        scale = (spread / count + norm.eps).rsqrt().repeat_interleave(x.shape[1] // norm.num_groups, 1)
        shift = -mean.repeat_interleave(x.shape[1] // norm.num_groups, 1) * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        scale, shift = scale.float()[..., None, None], shift.float()[..., None, None]

        def apply(part: Tensor) -> Tensor:
            out = torch.addcmul(shift, part.float(), scale)
            return out if torch.is_autocast_enabled(part.device.type) else out.to(part.dtype)

        return apply

    def queries(self, keys: int) -> int:
        """The number of queries whose weights of `keys` keys fit."""
        return max(self._work // (8 * keys), 1)

    def held(self, x: Map, *, release: bool = True) -> Kept:
        """`x` kept in memory; `release`: in the place of what it was made of."""
        bands: list[Tensor] = []
        batch, channels, _, width = x.shape
        some = math.ceil(_BAND / (4 * batch * channels * width))
        for at in self.windows(x):
            part = x.window(at)
            tops = range(at.top, at.bottom, some)
            if at.left == 0:
                bands += [part.new_empty((batch, channels, min(top + some, at.bottom) - top, width)) for top in tops]
            for top, band in zip(tops, bands[-len(tops) :], strict=True):
                band[:, :, :, at.left : at.right] = part[:, :, top - at.top : top - at.top + some]
            if release and at.right == width:
                x.release(at.bottom)
        return Kept(bands)

    @staticmethod
    def _bytes(x: Map) -> int:
        return 4 * math.prod(x.shape)


def activated(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else has."""
    return F.silu(x, inplace=True)


def _even(size: int, most: int) -> int:
    """The smallest equal parts of `size`, as many as parts of `most` would be."""
    return math.ceil(size / math.ceil(size / most))
