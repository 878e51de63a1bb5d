"""Tensors to a safetensors file, one by one: beside them no second copy is ever in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

_ALIGNED = 8  # the header's length in bytes is a multiple of it


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the bytes that ``safetensors.torch.save`` gives, tensor by tensor. Views may share memory."""
    header = _header(tensors, metadata)
    begin = 0
    names = [name for name in header if name != "__metadata__"]
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] |= {"shape": list(tensors[name].shape), "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            file.write(flat.view(torch.uint8).numpy().data)


def whole(write: Callable[[BinaryIO], object]) -> bytes:
    """The bytes of a file that `write` fills."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """The library's own header, for its order of tensors and its names of types; of empty tensors."""
    small = save({name: t.new_empty(0, device="cpu") for name, t in tensors.items()}, metadata=dict(metadata))
    header: dict[str, dict[str, object]] = json.loads(small[8 : 8 + int.from_bytes(small[:8], "little")])
    return header
