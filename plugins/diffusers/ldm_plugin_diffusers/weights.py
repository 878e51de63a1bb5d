"""One weight under both names: how it is taken from a stored file, and how it is given to one."""

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

    `flat`: a 1x1 convolution here is a linear layer there. Three names there are queries, keys and values of one fused
    projection here, whose rows go by head, then by role (`heads` of them), or with `heads` 0 by role alone.
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
    """The tensors of one component, whatever the number of its files: their name -> file and name in it."""

    where: str
    places: Mapping[str, tuple[TensorFile, str]]

    def renamed(self, prefix: str) -> Stored:
        """With `prefix` taken off the names that begin with it."""
        return attrs.evolve(self, places={k.removeprefix(prefix): v for k, v in self.places.items()})

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(file.infos[name].shape) for file, name in self.places.values())

    @staticmethod
    def of(files: Sequence[TensorFile], where: str) -> Stored:
        """All tensors of `files`, with the attention names of diffusers before 0.14 renamed to today's."""
        places: dict[str, tuple[TensorFile, str]] = {}
        for file in files:
            for name in file.infos:
                old = _OLD.fullmatch(name)
                today = f"{old[1]}{_OLD_ATTENTION[old[2]]}{old[3]}" if old else name
                if today in places:
                    raise CheckpointError(f"{where}: '{name[:80]}' is there twice; copy the weights again")
                places[today] = (file, name)
        return Stored(where, places)


@attrs.frozen
class Taken:
    """Tensors in our names, and the stored names that were not found or not asked for."""

    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def misfits(weights: Sequence[Weight], stored: Stored) -> None:
    """CheckpointError where a stored tensor has another shape than its config says; no tensor is read for it."""
    for weight in weights:
        for name in weight.theirs:
            if name not in stored.places:
                continue
            file, place = stored.places[name]
            shape = file.infos[place].shape
            if _bare(shape) != _bare(weight.their_shape):
                raise CheckpointError(
                    f"{stored.where}: {place[:80]} has shape {list(shape)}, its config.json says "
                    f"{list(weight.their_shape)}; the two do not belong together"
                )


def take(weights: Sequence[Weight], stored: Stored, *, ignored: Collection[str] = ()) -> Taken:
    """Read `weights` from `stored`, after holding all shapes to the config's."""
    misfits(weights, stored)
    tensors: dict[str, Tensor] = {}
    missing: list[str] = []
    for weight in weights:
        lacking = [name for name in weight.theirs if name not in stored.places]
        missing += lacking
        if not lacking:
            parts = [file.read(place) for file, place in (stored.places[name] for name in weight.theirs)]
            tensors[weight.ours] = weight.join(parts)
    known = {name for weight in weights for name in weight.theirs}
    unexpected = [name for name in stored.places if name not in known and name not in ignored]
    return Taken(tensors, tuple(missing), tuple(unexpected))


def give(weights: Sequence[Weight], tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Our `tensors` under their names. CheckpointError where one is missing or of another shape."""
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
    """As :func:`give`. CheckpointError too where a tensor is neither among `weights` nor written `elsewhere`."""
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
