"""Weights from files into modules, strictly, and into files; modules made without drawing weights first."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import load_file as mapped_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm_core import storage
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.model.finite import warn_of


class seeded:
    """A context with torch's global generator started from `seed`, and put back afterwards."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        seed: Callable[[int], object] = torch.manual_seed if _accelerated() else torch.default_generator.manual_seed
        seed(self._seed)  # without a device torch's own notes its caller's whole stack: half a millisecond

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)


@cache
def _accelerated() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


class unfilled(TorchFunctionMode):
    """A context, of this thread alone, for making modules without drawing their first weights, which takes longer than
    reading them: for modules filled from a file, strictly, right after. Draws from a generator of their own are made as
    always."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave out draws in place; everything else as it is."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS and kwargs.get("generator") is None:
            return args[0] if args else next(iter(kwargs.values()))
        return func(*args, **kwargs)


_ALIGNED = 8  # the length of a safetensors header in bytes is a multiple of it
_DRAWS = frozenset({"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"})
"""In-place draws: torch's own, and those of ``nn.init`` visible to a mode as a whole."""


def load_weights(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Fill `module` from named tensors; :class:`LDMError` naming missing, unexpected and misshapen ones."""
    require_same(module, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where)
    module.load_state_dict(tensors)


def device_named(name: str | None) -> torch.device:
    """The torch device of this name; None = a GPU if there is one. :class:`ConfigError` if it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch's own words: a build without this backend, an index past the last device
        reason = "no such kind of device" if "device string" in str(error) else str(error).partition("\n")[0][:120]
        raise ConfigError(f"device '{name}' cannot be used here ({reason}); try cpu, or leave it out") from error
    return device


def tensors_of(url: str, *, warn: bool = True) -> dict[str, Tensor]:
    """The tensors of a weights file by name; :class:`CheckpointError` if it is damaged. With `warn`, a warning names
    those with non-finite values.

    Those of a local file lie in the system's cache of it, without a copy, until they are changed.
    """
    path = storage.local_path(url)
    try:
        if path is not None and sys.platform != "win32":  # where a file cannot be replaced while it is in use
            with storage.open_read(url):  # a regular file, which can be read
                tensors = mapped_safetensors(path)
        else:
            tensors = parse_safetensors(storage.read_bytes(url))
    except SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{storage.shown(url)}: is damaged ({reason}); copy it again") from error
    if warn:
        warn_of(tensors, storage.shown(url))
    return tensors


def require_same(module: nn.Module, stored: Mapping[str, tuple[int, ...]], where: str) -> None:
    """:class:`CheckpointError` unless the `stored` names and shapes are those of `module`'s state."""
    own = dict(module.state_dict())
    missing = [k for k in own if k not in stored]
    unexpected = [k for k in stored if k not in own]
    shapes = [
        f"{k} {stored[k]} for {tuple(v.shape)}"
        for k, v in own.items()
        if k in stored and isinstance(v, Tensor) and v.shape != stored[k] and not k.endswith("_extra_state")
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {what} (e.g. {names[0]})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        raise CheckpointError(
            f"{where}: these weights are of another architecture: {'; '.join(parts)}; use the recipe that they were "
            "trained with"
        )


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the bytes of ``safetensors.torch.save`` tensor by tensor, without a second copy of all in memory. Views may
    share memory."""
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
    """The bytes that `write` puts into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """The library's own header, for its order of tensors and its names of types; of empty tensors. The library's of no
    tensors is broken."""
    if not tensors:
        return {"__metadata__": dict(metadata)}
    small = safetensors_bytes(
        {name: t.new_empty(0, device="cpu") for name, t in tensors.items()}, metadata=dict(metadata)
    )
    header: dict[str, dict[str, object]] = json.loads(small[8 : 8 + int.from_bytes(small[:8], "little")])
    return header
