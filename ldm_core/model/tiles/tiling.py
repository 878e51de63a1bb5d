"""The first stage on large pictures: in pieces, so that its memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Decoder, FirstStage
from ldm_core.contracts.answers import FirstStageAnswers
from ldm_core.contracts.configs import of
from ldm_core.nn.tiles.windows import places, weights

_OVERLAP = 4
"""A window shares this part of its side with the next one, one over it."""


class Asked(Protocol):
    """A recipe's section `sample`, as far as it is read here."""

    @property
    def tile(self) -> int:
        """The side in pixels; 0 = whole pictures."""

    @property
    def tile_memory(self) -> int:
        """The memory in MiB."""


@attrs.frozen
class Tiling:
    """The rule by which a first stage takes large pictures; `pixels` is a side, 0 = whole pictures, `memory` in bytes.

    A picture of more pixels than a square of that side is encoded and decoded by itself and without gradients: by the
    stage's own ``encode_in_pieces`` and ``decode_in_pieces``, whose results are those of the whole to rounding, or else
    in overlapping windows of that side, blended. Where gradients are computed, it is taken whole.
    """

    pixels: int = 0
    memory: int = 0

    @classmethod
    def of(cls, settings: Asked) -> Tiling:
        """The rule of a recipe's section `sample`."""
        return cls(settings.tile, settings.tile_memory << 20)

    def moments(self, stage: FirstStage, x: Tensor) -> Tensor:
        """``stage.encode_moments(x)`` of images (B, c, H, W)."""
        if not self._cuts(stage, x.shape[2:], 1):
            return stage.encode_moments(x)
        cells = stage.latent.shape(x.shape[2:])[1:]  # the error of a size that does not divide
        own = of(FirstStageAnswers, stage).encode_in_pieces
        if own is not None:
            return torch.cat([own(one, self.memory) for one in x.split(1)])
        return torch.cat([self._blended(stage.encode_moments, stage, one, cells, encodes=True) for one in x.split(1)])

    def decode(self, stage: FirstStage | Decoder, z: Tensor) -> Tensor:
        """``stage.decode(z)`` of latents (B, C, *s); another decoder may stand in the stage's place."""
        if not self._cuts(stage, z.shape[2:], None):
            return stage.decode(z)
        own = of(FirstStageAnswers, stage).decode_in_pieces
        if own is not None:
            return torch.cat([own(one, self.memory) for one in z.split(1)])
        return torch.cat([self._blended(stage.decode, stage, one, z.shape[2:], encodes=False) for one in z.split(1)])

    def _cuts(self, stage: FirstStage | Decoder, size: Sequence[int], stride: int | None) -> bool:
        """True if something of `size` is taken in pieces; `stride`: None = it counts cells, of the stage's stride."""
        steps = tuple(stage.latent.stride)
        if not self.pixels or torch.is_grad_enabled() or len(steps) != 2 or len(size) != 2:
            return False
        height, width = (each * (step if stride is None else stride) for each, step in zip(size, steps, strict=True))
        return bool(height * width > self.pixels**2)

    def _blended(
        self,
        call: Callable[[Tensor], Tensor],
        stage: FirstStage | Decoder,
        one: Tensor,
        cells: Sequence[int],
        *,
        encodes: bool,
    ) -> Tensor:
        """The results of windows over `cells`, blended; their borders fall on cells of the latents."""
        stride = tuple(stage.latent.stride)
        window = [max(min(self.pixels // step, size), 1) for step, size in zip(stride, cells, strict=True)]
        overlap = max(min(window) // _OVERLAP, 0)
        grown = cells if encodes else [size * s for size, s in zip(cells, stride, strict=True)]
        out, total = None, torch.zeros(*grown)
        for place in places(cells, window, overlap):
            rows, columns = (slice(p.start * s, p.stop * s) for p, s in zip(place, stride, strict=True))
            source, target = ((rows, columns), place) if encodes else (place, (rows, columns))
            part = call(one[:, :, source[0], source[1]])
            if out is None:
                out, total = part.new_zeros(1, part.shape[1], *grown), total.to(part)
            share = overlap if encodes else overlap * min(stride)
            weight = weights(part.shape[2:], share).to(part)
            out[:, :, target[0], target[1]] += part * weight
            total[target] += weight
        assert out is not None
        return out.div_(total)


_WHOLE = Tiling()
_TILING: ContextVar[Tiling] = ContextVar("ldm_core_tiling", default=_WHOLE)


def current_tiling() -> Tiling:
    """The rule of the sampling that is under way here; whole pictures outside of one."""
    return _TILING.get()


class tiled:
    """A context in which parts that encode and decode by their site follow `tiling`."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling

    def __enter__(self) -> None:
        self._before = _TILING.set(self._tiling)

    def __exit__(self, *error: object) -> None:
        _TILING.reset(self._before)
