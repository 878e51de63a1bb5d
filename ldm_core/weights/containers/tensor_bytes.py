"""The bytes of one tensor: read from a file that may have changed, made a tensor. Torch is imported only for that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldm_core.contracts.codec import TensorInfo
from ldm_core.errors import CheckpointError
from ldm_core.storage.local import open_file

if TYPE_CHECKING:
    from torch import Tensor

_TIMES = 4
_SPARE = 64 << 20


def check_total(url: str, infos: Mapping[str, TensorInfo], size: int) -> None:
    """Tensors may share bytes, but together they have no more than some times the file's: CheckpointError else."""
    total = sum(info.nbytes for info in infos.values())
    if total > _TIMES * size + _SPARE:
        raise CheckpointError(f"{url}: its tensors would take {total:,} bytes, and the file has {size:,}")


def read_block(url: str, path: Path, start: int, length: int) -> np.ndarray:
    """Bytes start..start+length of the file, writable; CheckpointError where they are not there."""
    try:
        data = np.empty(length, dtype=np.uint8)
        with open_file(path, buffering=0) as file:
            file.seek(start)
            view, got = data.data, 0
            while got < length:
                count = file.readinto(view[got : got + (1 << 30)])  # type: ignore[attr-defined]
                if not count:
                    raise CheckpointError(f"{url}: was cut short while it was read; copy it again")
                got += count
    except (OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{url}: {length:,} bytes of it cannot be read ({error})") from None
    return data


def tensor_of(
    url: str, name: str, data: np.ndarray, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...] | None = None
) -> Tensor:
    """`data`, the bytes that the tensor spans, as a contiguous tensor. Takes the memory over."""
    import torch

    try:
        if not data.size:
            return torch.empty(shape, dtype=getattr(torch, dtype))
        flat = torch.from_numpy(data)
        if dtype == "bool":  # any other value than 0 and 1 is undefined
            flat = flat != 0
        else:
            flat = flat.view(getattr(torch, dtype))
        if stride is None:
            return flat.reshape(shape)
        return flat.as_strided(shape, stride).contiguous()
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{url}: '{name}' cannot be made a tensor ({dtype}, {reason})") from None
