"""Random reference models of diffusers and transformers at reduced widths, and ours from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision_operators import declare_torchvision_operators

from ldm_core.catalog import Catalog
from ldm_core.codec import ModelWeights
from ldm_core.weights.reading import build_part, read
from ldm_core.weights.source import open_source

declare_torchvision_operators()

CATALOG = Catalog.discover()


def drawn(module: Any, seed: int = 0) -> Any:
    """Redraw all parameters, so that none is zero: matrices keep the size of their inputs, norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
            else:
                parameter.copy_(0.1 * noise)
        for child in module.modules():
            if isinstance(child, nn.GroupNorm | nn.LayerNorm):
                child.weight.add_(1.0)
            if isinstance(child, nn.Embedding):
                child.weight.mul_(child.embedding_dim**0.5)
    return module.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def saved(module: Any, folder: Path, **options: Any) -> Path:
    module.save_pretrained(folder, **options)
    return folder


def weights_of(folder: Path, **given: Any) -> ModelWeights:
    return read(open_source(str(folder), given), CATALOG, "diffusers")


def ours(folder: Path, **given: Any) -> Any:
    """The part that a folder holds, built by the core."""
    return build_part(weights_of(folder, **given), CATALOG)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def gap(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a.double() - b.double()).abs().max().item()
