"""Common part of torch's containers: a pickled checkpoint's tensors by name, and reading one. Torch only to read."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.contracts.codec import TensorInfo
from ldm_core.errors import CheckpointError
from ldm_core.weights.containers.pickled_tensors import Inert, Storage, StoredTensor
from ldm_core.weights.containers.tensor_bytes import check_total, read_block, tensor_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_LONGEST_NAME = 1000
_LONGEST_SCALAR = 1 << 16  # a configuration as text
_MOST_TENSORS = 1_000_000


@attrs.frozen
class Contents:
    """A checkpoint's tensors, its scalars as text, and what was left out, by name with its class."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    ignored: Mapping[str, str]


def contents(value: Any, where: str) -> Contents:
    """Find the state dict of a pickle: under ``state_dict``, the whole, or in its only mapping of tensors.

    CheckpointError if there is none, or for a name of no state dict.
    """
    if isinstance(value, Inert):
        raise CheckpointError(
            f"{where}: holds an object of the class {_printable(value.what)} and no mapping of tensors; "
            "save its state_dict() where that class is installed"
        )
    if type(value) is not dict:
        raise CheckpointError(f"{where}: holds {_kind(value)} and no mapping of tensors")
    scalars, state = value, value.get("state_dict")
    if type(state) is not dict:
        state = value
        if not _tensors(value):
            inner = [key for key, each in value.items() if type(each) is dict and _tensors(each)]
            if len(inner) > 1:
                raise CheckpointError(
                    f"{where}: holds no 'state_dict', but several mappings of tensors "
                    f"({', '.join(map(_printable, inner[:8]))}); save the one that is meant by itself"
                )
            if inner:
                state = value[inner[0]]
    tensors = _tensors(state)
    if not tensors:
        raise CheckpointError(f"{where}: holds no tensors, neither under 'state_dict' nor by itself")
    if len(tensors) > _MOST_TENSORS:
        raise CheckpointError(f"{where}: holds {len(tensors):,} tensors, more than any model")
    for name in tensors:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise CheckpointError(f"{where}: holds a tensor whose name is none ({_printable(name)!r})")
    metadata = {_printable(k): text for k, v in scalars.items() if (text := _scalar(v)) is not None}
    ignored = {_printable(k): _kind(v) for k, v in state.items() if k not in tensors and _scalar(v) is None}
    return Contents(tensors, metadata, ignored)


def _tensors(state: dict[str, Any]) -> dict[str, StoredTensor]:
    return {name: each for name, each in state.items() if isinstance(each, StoredTensor)}


def _scalar(value: Any) -> str | None:
    if type(value) is bool or type(value) is float or (type(value) is int and abs(value) < 1 << 63):
        return str(value)
    if type(value) is str and len(value) <= _LONGEST_SCALAR:
        return _printable(value, _LONGEST_SCALAR)
    return None


def _kind(value: Any) -> str:
    if isinstance(value, StoredTensor | Storage):
        return "a tensor by itself"
    return _printable(value.what) if isinstance(value, Inert) else type(value).__name__


def _printable(text: str, most: int = 100) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:most])


class TorchFile(ABC):
    """A file of torch's; see :class:`ldm_core.contracts.codec.TensorFile`. `ignored`: what of the state dict is no
    tensor.

    `url` names it in messages, `path` is where it lies. Nothing is read but structure until :meth:`read`.
    """

    container = ""

    def __init__(self, url: str, path: Path, size: int, found: Contents) -> None:
        self.url, self.path, self.size = url, path, size
        self.metadata, self.ignored = found.metadata, found.ignored
        self._tensors = found.tensors
        self.infos: Mapping[str, TensorInfo] = {
            n: TensorInfo(t.dtype, t.shape, t.nbytes) for n, t in found.tensors.items()
        }
        check_total(url, self.infos, size)

    @abstractmethod
    def _block(self, storage: Storage) -> tuple[int, int]:
        """Offset of the storage's bytes in the file, and their number."""

    def _checksum(self, storage: Storage) -> int | None:
        """The CRC-32 of the storage's bytes; None where none is kept, or it was compared."""
        return None

    def _compared(self, storage: Storage) -> None:
        """The storage's bytes fit its checksum."""

    def read(self, name: str) -> Tensor:
        """The tensor; see :meth:`ldm_core.contracts.codec.TensorFile.read`."""
        data, stored = self.span(name), self._tensors[name]
        return tensor_of(self.url, name, data, stored.dtype, stored.shape, stored.stride)

    def span(self, name: str) -> np.ndarray:
        """Its bytes; see :meth:`ldm_core.contracts.codec.TensorFile.span`."""
        stored = self._tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.url}: holds no tensor '{name}'")
        storage = stored.storage
        begin, length = self._block(storage)
        first, last = stored.span
        expected = self._checksum(storage)
        whole = expected is not None and length <= 2 * (last - first)
        if whole:  # one pass for both: nearly always the tensor is all of its storage
            data = read_block(self.url, self.path, begin, length)
            found = zlib.crc32(data.data)
            data = data[first:last]
        else:
            data = read_block(self.url, self.path, begin + first, last - first)
            found = 0 if expected is None else self._crc(begin, length)
        if expected is not None:
            if found != expected:
                raise CheckpointError(f"{self.url}: the bytes of '{name}' do not fit their checksum; copy it again")
            self._compared(storage)
        return data

    def _crc(self, begin: int, length: int) -> int:
        found, step = 0, 8 << 20
        for start in range(begin, begin + length, step):
            found = zlib.crc32(read_block(self.url, self.path, start, min(step, begin + length - start)).data, found)
        return found
