"""A checkpoint as ``torch.save`` writes it since 1.6: a zip with one pickle and a member a storage, uncompressed.

Members: ``NAME/data.pkl``, ``NAME/data/KEY`` a storage, ``NAME/version``, ``NAME/byteorder``, all under one name.
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
from ldm_core.weights.containers.zip_directory import Member, members, place

_PICKLE = "data.pkl"


class TorchZip(TorchFile):
    """See :class:`ldm_core.contracts.codec.TensorFile`; `url` names it in messages, `path` is where it lies."""

    container = "torch zip"

    def __init__(self, url: str, path: Path, size: int) -> None:
        self.url, self.path, self.size = url, path, size
        self._members = members(url, path, size)
        pickled = [name for name in self._members if name.endswith(".pkl")]
        if any(name.rpartition("/")[2] == "constants.pkl" for name in pickled):
            raise CheckpointError(f"{url}: is a TorchScript program, which holds code; save the model's state_dict()")
        inside = [name for name in pickled if name.rpartition("/")[2] == _PICKLE]
        if len(inside) != 1 or len(pickled) != 1:
            found = ", ".join(pickled[:5]) or "none"
            raise CheckpointError(f"{url}: is a zip without exactly one pickle '{_PICKLE}' (found: {found})")
        self._root = inside[0].removesuffix(_PICKLE)
        if (order := self._small("byteorder")) not in (None, b"little"):
            raise CheckpointError(f"{url}: was written on another kind of machine (byte order {order!r})")
        where = f"{url} ({inside[0]})"
        data = self._bytes(self._members[inside[0]], pickles.LIMIT)
        value, _ = pickles.interpret(data, 0, where, lambda saved: self._storage(saved, where))
        self._checked: set[str] = set()
        super().__init__(url, path, size, contents(value, where))

    def _small(self, name: str) -> bytes | None:
        member = self._members.get(self._root + name)
        return None if member is None else self._bytes(member, 100)

    def _bytes(self, member: Member, limit: int) -> bytes:
        """A whole member, with its checksum."""
        if member.size > limit:
            raise CheckpointError(f"{self.url}: '{member.name}' has {member.size:,} bytes; at most {limit:,} are read")
        begin = place(self.url, self.path, member)
        data = read_block(self.url, self.path, begin, member.size).tobytes()
        if not member.fits(data):
            raise CheckpointError(f"{self.url}: the bytes of '{member.name}' do not fit their checksum; copy it again")
        return data

    def _storage(self, saved: Any, where: str) -> Storage | Inert:
        """Read a persistent id: ``("storage", class, key, device, elements)``."""
        if type(saved) is not tuple or len(saved) != 5 or saved[0] != "storage":
            raise ValueError("a persistent id describes no storage")
        _, kind, key, _, numel = saved
        dtype = storage_dtype(kind)
        if dtype is None:
            return Inert("a storage of an unknown type")
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 62:
            raise ValueError("a persistent id describes no storage")
        member = self._members.get(f"{self._root}data/{key}")
        if member is None:
            raise CheckpointError(f"{where}: refers to the storage '{key[:40]}', which the file does not hold")
        if numel * BYTES[dtype] > member.size:
            raise CheckpointError(
                f"{where}: the storage '{key[:40]}' should have {numel * BYTES[dtype]:,} bytes and has {member.size:,}"
            )
        return Storage(key, dtype, numel)

    def _block(self, storage: Storage) -> tuple[int, int]:
        member = self._members[f"{self._root}data/{storage.key}"]
        return place(self.url, self.path, member), member.size

    def _checksum(self, storage: Storage) -> int | None:
        if storage.key in self._checked:
            return None
        return self._members[f"{self._root}data/{storage.key}"].checksum

    def _compared(self, storage: Storage) -> None:
        self._checked.add(storage.key)
