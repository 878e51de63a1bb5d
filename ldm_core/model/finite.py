"""Weights that are not finite: found in one fast pass over their bytes, counted, and named. Imports no torch.

A floating value is not finite if all bits of its exponent are set, so whole numbers tell it, in every type alike. Masks
are left out: they hold minus infinity on purpose (OpenCLIP stores its own).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ldm_core.errors import LDMError

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts.codec import TensorFile

_CHUNK = 1 << 16  # values at once: they stay in the processor's cache between the two passes over them
_NAMED = 3
# torch's name of a type -> the whole number of its size, and the bits all set in NaN and infinity
_EXPONENTS: Mapping[str, tuple[Any, int]] = MappingProxyType(
    {
        "float16": (np.uint16, 0x7C00),
        "bfloat16": (np.uint16, 0x7F80),
        "float32": (np.uint32, 0x7F800000),
        "float64": (np.uint64, 0x7FF0000000000000),
        "complex64": (np.uint32, 0x7F800000),
        "complex128": (np.uint64, 0x7FF0000000000000),
        "float8_e5m2": (np.uint8, 0x7C),
        "float8_e4m3fn": (np.uint8, 0x7F),  # it has no infinity, and one NaN of each sign
        "float8_e8m0fnu": (np.uint8, 0xFF),
    }
)
_ONE_NAN = ("float8_e4m3fnuz", "float8_e5m2fnuz")  # their only one is the negative zero of others


def _is_mask(name: str) -> bool:
    return "mask" in name.rpartition(".")[2]


class WeightsWarning(UserWarning):
    """A warning of non-finite values in weights as read."""


@attrs.frozen
class Bad:
    """The count of a tensor's non-finite values."""

    count: int
    values: int


def bad_values(data: np.ndarray, dtype: str) -> int:
    """The count of NaN and infinity in `data`, the bytes of a tensor of torch's type `dtype`."""
    if dtype in _ONE_NAN:
        return int(np.count_nonzero(data == 0x80))
    if dtype not in _EXPONENTS:
        return 0
    kind, bits = _EXPONENTS[dtype]
    values, mask = data.view(kind), kind(bits)
    found, room = 0, np.empty(_CHUNK, dtype=kind)
    for begin in range(0, len(values), _CHUNK):
        part = values[begin : begin + _CHUNK]
        exponents = np.bitwise_and(part, mask, out=room[: len(part)])
        if exponents.max() == mask:
            found += int(np.count_nonzero(exponents == mask))
    return found


def bad_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Bad]:
    """The tensors, by name, with non-finite values."""
    found = {}
    for name, value in tensors.items():
        floating = value.is_floating_point() or value.is_complex()
        if floating and not _is_mask(name) and (count := _count(value)):
            found[name] = Bad(min(count, value.numel()), value.numel())
    return found


def _count(value: Tensor) -> int:
    if value.device.type == "meta" or not value.numel():
        return 0
    if value.device.type != "cpu":
        return int((~value.detach().isfinite()).sum())
    import torch

    if value.dtype == torch.float32 and math.isfinite(float(value.detach().sum())):  # twice as fast; it may overflow
        return 0
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
    return bad_values(flat.numpy(), str(value.dtype).removeprefix("torch."))


def bad_in_file(file: TensorFile) -> dict[str, Bad]:
    """The tensors of a file with non-finite values; reads them all, one at a time.

    :class:`~ldm_core.errors.CheckpointError` if the bytes of one are damaged.
    """
    found = {}
    for name, info in file.infos.items():
        if not _is_mask(name) and (info.dtype in _EXPONENTS or info.dtype in _ONE_NAN):
            values = int(np.prod(info.shape, dtype=object))
            if values and (count := min(bad_values(file.span(name), info.dtype), values)):
                found[name] = Bad(count, values)
    return found


def in_words(bad: Mapping[str, Bad]) -> str:
    """``2 tensors hold values that are not finite: a.bias (3 of 32), b.weight (all 64)``."""
    rows = [f"{name} ({_share(each)})" for name, each in list(bad.items())[:_NAMED]]
    more = f" and {len(bad) - len(rows)} more" if len(bad) > len(rows) else ""
    whose = "1 tensor holds" if len(bad) == 1 else f"{len(bad)} tensors hold"
    return f"{whose} values that are not finite (NaN or infinite): {', '.join(rows)}{more}"


def _share(each: Bad) -> str:
    return f"{each.count:,} of {each.values:,}" if each.count < each.values else f"all {each.values:,}"


def warn_of(tensors: Mapping[str, Tensor], where: str, advice: str = "get the weights anew, or repair them") -> None:
    """:class:`WeightsWarning` naming the non-finite values of `tensors`, read from `where`."""
    if bad := bad_tensors(tensors):
        text = f"{where}: {in_words(bad)}; what is made with them may be spoiled: {advice}"
        warnings.warn(text, WeightsWarning, stacklevel=2)


def require(tensors: Mapping[str, Tensor], where: str, error: type[LDMError], advice: str) -> None:
    """`error` naming the non-finite values of `tensors`, read from `where`, and the remedy."""
    if bad := bad_tensors(tensors):
        raise error(f"{where}: {in_words(bad)}; {advice}")
