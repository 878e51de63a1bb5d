"""Moments of pictures kept in memory, in blocks: many small tensors would tear the heap apart."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_ROWS = 512


class Moments:
    """Rows (1, M, *s) by pictures (1, c, H, W), up to `most` bytes in all; a full one takes no more."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._places: dict[bytes, tuple[Tensor, int]] = {}
        self._open: dict[torch.Size, tuple[Tensor, int]] = {}
        """The block in use for each shape, and its number of rows."""

    @staticmethod
    def key(picture: Tensor) -> bytes:
        """The hash of a picture's values."""
        return hashlib.blake2b(picture.cpu().numpy().tobytes(), digest_size=16).digest()

    def find(self, key: bytes) -> Tensor | None:
        """The row under `key`, or None."""
        found = self._places.get(key)
        return None if found is None else found[0][found[1] : found[1] + 1]

    def keep(self, key: bytes, row: Tensor) -> None:
        """Keep a copy of `row`, if there is room."""
        block, count = self._open.get(row.shape, (row, _ROWS))
        if count == _ROWS:
            size = _ROWS * row.numel() * row.element_size()
            if self._taken + size > self._most:
                return
            block, count = row.new_empty(_ROWS, *row.shape[1:]), 0
            self._taken += size
        block[count] = row[0]
        self._places[key] = block, count
        self._open[row.shape] = block, count + 1
