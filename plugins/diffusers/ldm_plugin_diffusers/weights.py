"""Weights under both names: taken from a stored file, and given to one."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from ldm_core.contracts.codec import TensorFile
from ldm_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")


@attrs.frozen
class Weight:
    """A weight of `shape` named `ours` here and `theirs` there.

    `flat`: a 1x1 convolution here is a linear layer there. Three names there are the queries, keys and values of one
    fused projection here. Its rows are ordered by head, then by role (`heads` heads); with `heads` 0, by role alone.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    flat: bool = False
    heads: int = 0

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape of each tensor there."""
        shape = (self.shape[0] // len(self.theirs), *self.shape[1:])
        return shape[:2] if self.flat else shape

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Their tensors -> ours."""
        import torch

        if len(parts) == 1:
            return parts[0].reshape(self.shape)
        roles = torch.stack([p.reshape(self.their_shape) for p in parts])  # (3, C, ...)
        if self.heads:
            roles = roles.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (heads, 3, dim, ...)
        return roles.reshape(self.shape)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Our tensor -> theirs, contiguous and each with memory of its own."""
        if len(self.theirs) == 1:
            return [tensor.reshape(self.their_shape).contiguous()]
        if self.heads:
            tensor = tensor.unflatten(0, (self.heads, 3, -1)).transpose(0, 1)  # (3, heads, dim, ...)
        return [part.reshape(self.their_shape).clone() for part in tensor.reshape(3, -1, *self.shape[1:])]


def convolution(ours: str, theirs: str, into: int, out: int, size: int = 3) -> Iterator[Weight]:
    """Weight and bias of a square two-dimensional convolution."""
    yield Weight(f"{ours}.weight", (f"{theirs}.weight",), (out, into, size, size))
    yield Weight(f"{ours}.bias", (f"{theirs}.bias",), (out,))


def linear(ours: str, theirs: str, into: int, out: int, *, bias: bool = True) -> Iterator[Weight]:
    """Weight and bias of a linear layer."""
    yield Weight(f"{ours}.weight", (f"{theirs}.weight",), (out, into))
    if bias:
        yield Weight(f"{ours}.bias", (f"{theirs}.bias",), (out,))


def flattened(ours: str, theirs: str, width: int, axes: int) -> Iterator[Weight]:
    """A 1x1 convolution of `axes` spatial axes here, a linear layer there."""
    yield Weight(f"{ours}.weight", (f"{theirs}.weight",), (width, width, *[1] * axes), flat=True)
    yield Weight(f"{ours}.bias", (f"{theirs}.bias",), (width,))


def norm(ours: str, theirs: str, width: int) -> Iterator[Weight]:
    """Weight and bias of a normalisation."""
    yield Weight(f"{ours}.weight", (f"{theirs}.weight",), (width,))
    yield Weight(f"{ours}.bias", (f"{theirs}.bias",), (width,))


@attrs.frozen
class Stored:
    """The tensors of one component: name -> place in the file."""

    where: str
    file: TensorFile
    places: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """The count of all numbers."""
        return sum(math.prod(self.file.infos[place].shape) for place in self.places.values())

    @classmethod
    def of(cls, file: TensorFile, where: str) -> Stored:
        """All tensors of a file. Attention names of diffusers before 0.14 become today's."""
        places: dict[str, str] = {}
        for name in file.infos:
            old = _OLD.fullmatch(name)
            today = f"{old[1]}{_OLD_ATTENTION[old[2]]}{old[3]}" if old else name
            if today in places:
                raise CheckpointError(f"{where}: '{name[:80]}' is there twice; copy the weights again")
            places[today] = name
        return cls(where, file, places)


@attrs.frozen
class Taken:
    """Tensors under our names, `missing` names, and the `unexpected` names of the file."""

    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def misfits(weights: Sequence[Weight], stored: Stored) -> None:
    """Compare stored shapes with the config's, without a read. CheckpointError at the first difference."""
    for weight in weights:
        for name in weight.theirs:
            if name not in stored.places:
                continue
            place = stored.places[name]
            shape = stored.file.infos[place].shape
            if _bare(shape) != _bare(weight.their_shape):
                raise CheckpointError(
                    f"{stored.where}: {place[:80]} has shape {list(shape)}, its config.json says "
                    f"{list(weight.their_shape)}; the two do not belong together"
                )


def take(weights: Sequence[Weight], stored: Stored, *, ignored: Collection[str] = ()) -> Taken:
    """Read `weights` from `stored`, after a check of all shapes."""
    misfits(weights, stored)
    tensors: dict[str, Tensor] = {}
    missing: list[str] = []
    for weight in weights:
        lacking = [name for name in weight.theirs if name not in stored.places]
        missing += lacking
        if not lacking:
            parts = [stored.file.read(stored.places[name]) for name in weight.theirs]
            tensors[weight.ours] = weight.join(parts)
    known = {name for weight in weights for name in weight.theirs}
    unexpected = [name for name in stored.places if name not in known and name not in ignored]
    return Taken(tensors, tuple(missing), tuple(unexpected))


def give(weights: Sequence[Weight], tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Our `tensors` under their names. CheckpointError for a missing tensor or a wrong shape."""
    out: dict[str, Tensor] = {}
    for weight in weights:
        tensor = tensors.get(weight.ours)
        if tensor is None or tuple(tensor.shape) != weight.shape:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}, not {list(weight.shape)}"
            raise CheckpointError(f"{what}: {weight.ours} {found}; these weights are not the recipe's")
        out.update(zip(weight.theirs, weight.split(tensor.detach().cpu()), strict=True))
    return out


def give_all(
    weights: Sequence[Weight], tensors: Mapping[str, Tensor], what: str, *, elsewhere: Collection[str] = ()
) -> dict[str, Tensor]:
    """All `tensors` as by :func:`give`. CheckpointError for one beside `weights` that is not written `elsewhere`."""
    if left := sorted(tensors.keys() - {weight.ours for weight in weights} - set(elsewhere)):
        raise CheckpointError(
            f"{what}: {left[0][:80]} has no place in diffusers' format; these weights are not the recipe's"
        )
    return give(weights, tensors, what)


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    kept = list(shape)
    while len(kept) > 2 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)
