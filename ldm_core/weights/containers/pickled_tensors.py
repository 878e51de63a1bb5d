"""Tensors of a pickled checkpoint before they are read: a storage, and a span of its bytes. Imports no torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from ldm_core.weights.containers.dtypes import BYTES, STORAGES
from ldm_core.weights.containers.pickle_names import Global

_MOST_AXES = 64
_EXPANDED = 1 << 20  # elements that a tensor may have where its storage has fewer (an expanded one)


class Inert:
    """Stand-in for an object of a foreign class: the name of the class. It does nothing."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


@attrs.frozen(eq=False)
class Storage:
    """A run of elements in the file; `dtype` in torch's words, `numel` elements. `start`: in a storage that it is a
    view of, in elements (legacy files alone)."""

    key: str
    dtype: str
    numel: int
    start: int = 0


@attrs.frozen(eq=False)
class StoredTensor:
    """A tensor as the file describes it; `offset` and `stride` count elements of `storage`, as the tensor's type
    has them. Its extent was checked against the storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when it is contiguous."""
        return self.numel * BYTES[self.dtype]

    @property
    def span(self) -> tuple[int, int]:
        """The bytes of its storage from the first to behind the last that it touches."""
        if not self.numel:
            return 0, 0
        size = BYTES[self.dtype]
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return self.offset * size, (last + 1) * size

    @property
    def contiguous(self) -> bool:
        """True if its elements lie in order without gaps."""
        expected = 1
        for n, s in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and s != expected:
                return not self.numel
            expected *= n
        return True


@attrs.frozen
class _NumpyType:
    code: str


def storage_dtype(kind: Any) -> str | None:
    """The elements' type of a storage's class as a pickle names it; None where it is no such class."""
    if not isinstance(kind, Global) or kind.module not in ("torch", "torch.cuda", "torch.storage"):
        return None
    return STORAGES.get(kind.name)


def _whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None = None) -> StoredTensor | Inert:
    """ValueError where the numbers are not those of a tensor within its storage."""
    if isinstance(storage, Inert):
        return Inert("a tensor of an unknown storage")
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor is not described by a storage and two tuples")
    if not (len(shape) == len(stride) <= _MOST_AXES and _whole(offset, *shape, *stride)):
        raise ValueError("a tensor has a size, stride or offset that no tensor has")
    dtype = dtype or storage.dtype
    found = StoredTensor(storage, dtype, offset, shape, stride)
    held = storage.numel * BYTES[storage.dtype]
    if found.span[1] > held:
        raise ValueError(f"a tensor of {found.span[1]} bytes lies in storage '{storage.key[:40]}' of {held}")
    if found.numel > max(_EXPANDED, held // BYTES[dtype]):
        raise ValueError(f"a tensor has {found.numel} elements of a storage of {storage.numel}")
    return found


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    return _tensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, *rest: Any) -> Any:
    dtype = rest[0] if rest else None
    if not isinstance(dtype, Global) or dtype.module != "torch" or dtype.name not in BYTES:
        return Inert("a tensor of an unknown type")
    return _tensor(storage, offset, shape, stride, dtype.name)


def _first(value: Any, *rest: Any) -> Any:
    return value


def _ordered(*args: Any) -> dict[str, Any]:
    if not args or not isinstance(args[0], list | dict):
        return {}
    pairs = args[0].items() if isinstance(args[0], dict) else args[0]
    return {key: value for key, value in (tuple(pair) for pair in pairs) if type(key) is str}


def _size(*args: Any) -> tuple[Any, ...]:
    return tuple(args[0]) if args and isinstance(args[0], list | tuple) else ()


def _encode(text: Any, encoding: Any = "utf-8", *rest: Any) -> Any:
    return text.encode("latin-1") if type(text) is str and encoding in ("latin1", "latin-1") else Inert("bytes")


def _numpy_type(code: Any = "", *rest: Any) -> Any:
    return _NumpyType(code.lstrip("<|=")) if type(code) is str else Inert("numpy.dtype")


_NUMPY = MappingProxyType({"f4": "<f", "f8": "<d", "i4": "<i", "i8": "<q", "u4": "<I", "u8": "<Q", "b1": "<?"})


def _numpy_scalar(dtype: Any = None, data: Any = None, *rest: Any) -> Any:
    code = _NUMPY.get(dtype.code) if isinstance(dtype, _NumpyType) else None
    if code is None or type(data) is not bytes or len(data) != struct.calcsize(code):
        return Inert("numpy.scalar")
    return struct.unpack(code, data)[0]


CALLS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _first,
        "torch._utils._rebuild_parameter_with_state": _first,
        "torch.nn.parameter.Parameter": _first,
        "torch.Size": _size,
        "collections.OrderedDict": _ordered,
        "collections.defaultdict": lambda *args: {},
        "_codecs.encode": _encode,
        "numpy.dtype": _numpy_type,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
    }
)
"""Calls of a pickle, and their stand-ins here. Every other name answers with an :class:`Inert`."""
