"""Random streams, one per example, so that example i is a function of its own seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Streams:
    """One random stream per example; row i depends on ``seeds[i]`` alone, on every device (drawn on the CPU).

    Successive calls go on in each stream. Nothing here touches torch's global generator. A part draws all its noise
    by :meth:`normal` and :meth:`uniform`, for the whole batch at once.
    """

    def __init__(self, seeds: Sequence[int], device: Any = "cpu") -> None:
        self.seeds = tuple(int(s) for s in seeds)
        self.device = device
        self._generators = [torch.Generator("cpu").manual_seed(s & 0x7FFF_FFFF_FFFF_FFFF) for s in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 of `shape`; shape[0] = number of seeds, else ValueError."""
        return self._draw(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform in [0, 1), float32, of `shape`; shape[0] = number of seeds, else ValueError."""
        return self._draw(torch.rand, shape)

    def _draw(self, draw: Any, shape: Sequence[int]) -> Tensor:
        if not shape or shape[0] != len(self.seeds):
            raise ValueError(f"shape {tuple(shape)} does not begin with the number of streams, {len(self.seeds)}")
        rows = [draw(tuple(shape[1:]), generator=g, dtype=torch.float32) for g in self._generators]
        if not rows:
            return torch.empty(tuple(shape), device=self.device)
        return torch.stack(rows).to(self.device)


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed from whole numbers and words: far apart for near inputs, the same on every machine."""
    digest = hashlib.blake2b("/".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF_FFFF_FFFF
