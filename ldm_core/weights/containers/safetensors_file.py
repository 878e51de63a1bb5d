"""A safetensors file: its header, with every number held against the file, and its tensors one by one.

Layout: the header's length (8 bytes, little-endian), the header (JSON), then the tensors' bytes without gaps. Source:
the format's description in the repository huggingface/safetensors. Torch is imported only to read a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.codec import TensorInfo
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import CheckpointError
from ldm_core.weights.containers.dtypes import BYTES, SAFETENSORS
from ldm_core.weights.containers.tensor_bytes import read_block, tensor_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MOST_HEADER = 16 << 20
"""Most bytes of a header; a large text-to-image model's has a quarter of one million."""
_LONGEST_NAME = 1000
_MOST_AXES = 64


class SafetensorsFile:
    """See :class:`ldm_core.contracts.codec.TensorFile`. `url` names it in messages, `path` is where it lies."""

    container = "safetensors"
    ignored: Mapping[str, str] = EMPTY

    def __init__(self, url: str, path: Path, size: int) -> None:
        self.url, self.path, self.size = url, path, size
        header, begin = read_header(url, path, size)
        self.metadata: Mapping[str, str] = _metadata(url, header.pop("__metadata__", None))
        places = {name: _place(url, name, entry) for name, entry in header.items()}
        end = 0
        for name in sorted(places, key=lambda name: places[name][1:]):
            _, start, stop = places[name]
            if start != end:
                what = "overlaps another" if start < end else "leaves a gap in front of it"
                raise CheckpointError(f"{url}: the tensor '{name}' {what}; the header is damaged")
            end = stop
        if begin + end != size:
            what = "was cut short" if begin + end > size else "has bytes that belong to no tensor"
            raise CheckpointError(f"{url}: {what}: {size:,} bytes of {begin + end:,}; copy it again")
        order = sorted(places, key=lambda name: places[name][1])
        self.infos: Mapping[str, TensorInfo] = {name: places[name][0] for name in order}
        self._begin = {name: begin + places[name][1] for name in order}

    def read(self, name: str) -> Tensor:
        """The tensor; see :meth:`ldm_core.contracts.codec.TensorFile.read`."""
        data, info = self.span(name), self.infos[name]
        return tensor_of(self.url, name, data, info.dtype, info.shape)

    def span(self, name: str) -> np.ndarray:
        """Its bytes; see :meth:`ldm_core.contracts.codec.TensorFile.span`."""
        info = self.infos.get(name)
        if info is None:
            raise CheckpointError(f"{self.url}: holds no tensor '{name}'")
        return read_block(self.url, self.path, self._begin[name], info.nbytes)


def read_header(url: str, path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON and the offset behind it; CheckpointError where it does not read."""
    length = int.from_bytes(read_block(url, path, 0, 8).tobytes(), "little") if size >= 8 else 0
    if not 2 <= length <= size - 8:
        what = f"header of {length:,} bytes in {size:,}"
        raise CheckpointError(f"{url}: is no safetensors file, or was cut short ({what})")
    if length > MOST_HEADER:
        raise CheckpointError(f"{url}: its header has {length:,} bytes; at most {MOST_HEADER:,} are read")
    try:
        text = read_block(url, path, 8, length).tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_mapping, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise CheckpointError(f"{url}: is no safetensors file (its header does not read: {reason})") from None
    if type(header) is not dict or text[:1] != "{":
        raise CheckpointError(f"{url}: is no safetensors file (its header is no mapping)")
    return header, 8 + length


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _metadata(url: str, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if type(found) is not dict or any(type(value) is not str for value in found.values()):
        raise CheckpointError(f"{url}: its metadata is no mapping of texts")
    return found


def _place(url: str, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """Type and shape of a tensor, and its first and last byte behind the header."""
    shown = "".join(c if c.isprintable() else "?" for c in name[:100])
    if not name or len(name) > _LONGEST_NAME or shown != name[:100]:
        raise CheckpointError(f"{url}: holds a tensor whose name is none ('{shown}')")
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{url}: the header's entry of '{shown}' is not dtype, shape and data_offsets")
    dtype = SAFETENSORS.get(entry["dtype"]) if type(entry["dtype"]) is str else None
    if dtype is None:
        raise CheckpointError(f"{url}: the tensor '{shown}' has the unknown type {str(entry['dtype'])[:40]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_whole(shape) and len(shape) <= _MOST_AXES and _whole(offsets) and len(offsets) == 2):
        raise CheckpointError(f"{url}: the tensor '{shown}' has a shape or offsets that are no whole numbers")
    nbytes = BYTES[dtype]
    for axis in shape:
        nbytes *= axis
    if offsets[1] - offsets[0] != nbytes:
        held = offsets[1] - offsets[0]
        raise CheckpointError(f"{url}: the tensor '{shown}' needs {nbytes:,} bytes and the header gives it {held:,}")
    return TensorInfo(dtype, tuple(shape), nbytes), offsets[0], offsets[1]


def _whole(values: Any) -> bool:
    return type(values) is list and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
