"""A checkpoint as ``torch.save`` wrote it before 1.6: pickles one behind the other, then the storages' bytes.

In order: a magic number, the format's version, facts of the machine, the object, the list of its storages' keys, and
for each key the number of elements (8 bytes) and the elements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_core.errors import CheckpointError
from ldm_core.weights.containers import pickles
from ldm_core.weights.containers.dtypes import BYTES
from ldm_core.weights.containers.pickled_tensors import Inert, Storage, storage_dtype
from ldm_core.weights.containers.tensor_bytes import read_block
from ldm_core.weights.containers.torch_file import TorchFile, contents

MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class TorchLegacy(TorchFile):
    """See :class:`ldm_core.contracts.codec.TensorFile`; `url` names it in messages, `path` is where it lies."""

    container = "torch legacy"

    def __init__(self, url: str, path: Path, size: int) -> None:
        self.url, self.path, self.size = url, path, size
        self._roots: dict[str, tuple[str, int]] = {}
        data = read_block(url, path, 0, min(size, pickles.LIMIT)).tobytes()
        magic, at = self._next(data, 0)
        if magic != MAGIC:
            raise CheckpointError(f"{url}: is a pickle that torch.save did not write; give .safetensors or a .ckpt")
        version, at = self._next(data, at)
        machine, at = self._next(data, at)
        if version != _VERSION:
            raise CheckpointError(f"{url}: has version {str(version)[:20]} of torch's old format; {_VERSION} is read")
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise CheckpointError(f"{url}: was written on another kind of machine (not little-endian)")
        value, at = self._next(data, at)
        keys, at = self._next(data, at)
        self._places = self._storages(keys, at)
        super().__init__(url, path, size, contents(value, url))

    def _next(self, data: bytes, at: int) -> tuple[Any, int]:
        return pickles.interpret(data, at, self.url, self._storage)

    def _storage(self, saved: Any) -> Storage | Inert:
        """``("storage", class, key, device, elements, view)``; a view is ``(key, first element, elements)``."""
        if type(saved) is tuple and saved[:1] == ("module",):
            return Inert("a module's source")
        if type(saved) is not tuple or len(saved) != 6 or saved[0] != "storage":
            raise ValueError("a persistent id describes no storage")
        _, kind, key, _, numel, view = saved
        dtype = storage_dtype(kind)
        if dtype is None:
            return Inert("a storage of an unknown type")
        if type(key) is not str or not _count(numel) or numel * BYTES[dtype] > self.size:
            raise ValueError("a storage is larger than the file, or has no key")
        if self._roots.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise ValueError("a storage is described twice, and differently")
        if view is None:
            return Storage(key, dtype, numel)
        if type(view) is not tuple or len(view) != 3 or not _count(view[1]) or not _count(view[2]):
            raise ValueError("a view of a storage is not described by two numbers")
        if view[1] + view[2] > numel:
            raise ValueError("a view of a storage reaches beyond it")
        return Storage(key, dtype, view[2], view[1])

    def _storages(self, keys: Any, at: int) -> dict[str, tuple[int, int]]:
        """Place of each storage, from the counts in front of them; those of the pickle must be the same."""
        if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) != len(keys):
            raise CheckpointError(f"{self.url}: the list of its storages does not read; the file is damaged")
        if set(keys) != set(self._roots):
            raise CheckpointError(f"{self.url}: its tensors and its storages do not fit together; the file is damaged")
        places = {}
        for key in keys:
            dtype, numel = self._roots[key]
            if at + 8 > self.size:
                raise CheckpointError(f"{self.url}: was cut short; copy it again")
            found = int.from_bytes(read_block(self.url, self.path, at, 8).tobytes(), "little", signed=True)
            length = numel * BYTES[dtype]
            if found != numel:
                raise CheckpointError(f"{self.url}: a storage of {numel:,} elements says that it has {found:,}")
            if at + 8 + length > self.size:
                raise CheckpointError(f"{self.url}: was cut short; copy it again")
            places[key] = (at + 8, length)
            at += 8 + length
        if at != self.size:
            raise CheckpointError(f"{self.url}: has {self.size - at:,} bytes behind its last tensor")
        return places

    def _block(self, storage: Storage) -> tuple[int, int]:
        begin, length = self._places[storage.key]
        skipped = storage.start * BYTES[storage.dtype]
        return begin + skipped, length - skipped


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
