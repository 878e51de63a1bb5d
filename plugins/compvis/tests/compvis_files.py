"""What the tests of the CompVis codec read: files that are names and shapes alone, and files of the released layout."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import EMPTY, Site
from ldm_core.contracts.codec import TensorInfo


@attrs.define
class Shapes:
    """A file of names and shapes; what `small` holds can be read."""

    infos: Mapping[str, TensorInfo]
    small: Mapping[str, Tensor] = attrs.field(factory=dict)
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    url: str = "model.ckpt"
    container: str = "torch zip"

    def read(self, name: str) -> Tensor:
        return self.small[name]


@attrs.define
class OneFile:
    """A source of one file, with configurations beside it."""

    file: Any
    given: Mapping[str, Any] = EMPTY
    configs: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    url: str = "model.ckpt"
    folder: bool = False

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.configs)

    def tensors(self, name: str = "") -> Any:
        return self.file

    def config(self, name: str) -> Mapping[str, Any] | None:
        return self.configs.get(name)

    def text(self, name: str, *, limit: int = 16 << 20) -> bytes | None:
        return None

    def sha256(self) -> str:
        return "0" * 64


def shapes_file(shapes: Mapping[str, Sequence[int]], small: Mapping[str, Tensor] = EMPTY, **more: Any) -> Shapes:
    """A file of these shapes, in single precision, and of the tensors of `small`."""
    every = {**{k: tuple(v) for k, v in shapes.items()}, **{k: tuple(v.shape) for k, v in small.items()}}
    infos = {k: TensorInfo("float32", v, 4 * math.prod(v)) for k, v in every.items()}
    return Shapes(infos, small, **more)


def meta_module(catalog: Catalog, kind: str, name: str, site: Site, fields: Mapping[str, Any] = EMPTY) -> nn.Module:
    """A component or preset on the meta device."""
    from ldm_core.config.structure import unstructure

    entry, preset = catalog.get(kind, name)
    base = {} if preset is None else unstructure(preset)
    config: Any = structure({**base, **fields}, entry.component.config, name)
    with torch.device("meta"):
        module: nn.Module = entry.component.load()(config, site)
    return module


def shapes_of_module(module: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's state under `prefix`, without what only this package keeps."""
    own = ("latent_mean", "latent_std", "_extra_state")
    return {prefix + k: tuple(v.shape) for k, v in module.state_dict().items() if k not in own}


def beta_buffers(start: float, end: float, steps: int = 1000) -> dict[str, Tensor]:
    """Two of the stored tables, straight from the formula: linear in the square root, double, then single."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float()}


def fill(shapes: Mapping[str, Sequence[int]], prefix: str = "") -> dict[str, Tensor]:
    """Tensors filled from each key (below `prefix`) and flat index alone, as the golden numbers are."""
    out = {}
    for name, shape in shapes.items():
        key = name.removeprefix(prefix)
        phase = (zlib.crc32(key.encode()) % 1000) / 1000
        index = torch.arange(math.prod(shape), dtype=torch.float64)
        value = 0.05 * torch.sin(0.37 * index + phase)
        if len(shape) == 1 and key.endswith(".weight"):
            value = value + 1.0
        out[name] = value.float().view(*shape)
    return out


def ramp(*shape: int, step: float) -> Tensor:
    """sin(step · i), row by row."""
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64)).float().view(shape)


def statistics(out: Tensor) -> list[float]:
    """Mean, population std, largest magnitude and the first five values."""
    return [out.mean().item(), out.std(unbiased=False).item(), out.abs().max().item(), *out.flatten()[:5].tolist()]


def saved(path: Path, tensors: Mapping[str, Tensor], **more: Any) -> Path:
    """A checkpoint as training programs write it."""
    torch.save({"state_dict": dict(tensors), **more}, path)
    return path
