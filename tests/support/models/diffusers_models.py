"""Random reference models of diffusers and transformers at reduced widths, and ours from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights
from ldm_core.nn.torchvision_operators import importable
from ldm_core.weights.codecs import make_codec, read
from ldm_core.weights.complete import build_part
from ldm_core.weights.source import open_source

with importable():
    import diffusers  # noqa: F401

CATALOG = Catalog.discover()

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "##s", "blue", "dog", "."]
VOCABULARY = "".join(f"{word}\n" for word in WORDS).encode()

VQ = {"use": "vq_ae", "channels": 32, "channel_mult": [1, 2, 2], "res_blocks": 1, "codebook_size": 64}
KL = {"use": "kl_ae", "channels": 32, "channel_mult": [1, 2, 2, 2], "res_blocks": 1, "norm_groups": 16}
UNET: dict[str, Any] = {"channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [2], "head_channels": 16}
LEADING = {"use": "leading", "offset": 1, "final": "first"}
UNCONDITIONAL: dict[str, Any] = {
    "image_size": 32,
    "first_stage": VQ,
    "denoiser": UNET,
    "sampler": "ddim",
    "time_grid": LEADING,
}
TEXT: dict[str, Any] = {
    "image_size": 64,
    "first_stage": KL,
    "denoiser": {**UNET, "head_channels": 0, "heads": 4},
    "conditioners": [
        {
            "use": "text",
            "vocab_size": len(WORDS),
            "width": 24,
            "layers": 2,
            "heads": 2,
            "head_width": 8,
            "spare_tokens": 0,
            "logits": True,
            "dropout": 0.1,
        }
    ],
    "schedule": "vp_sd",
    "sampler": "ddim",
    "time_grid": LEADING,
    "guidance": {"use": "cfg", "scale": 3.0},
}

LETTERS = "abcdefghijklmnopqrstuvwxyz.!"
MERGES = ["r e", "re d</w>", "c a", "ca t</w>", "d o", "do g</w>"]
CLIP_WORDS = [
    *LETTERS,
    *(f"{letter}</w>" for letter in LETTERS),
    *(merge.replace(" ", "") for merge in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
CLIP_STATE = json.dumps({"vocab": {word: i for i, word in enumerate(CLIP_WORDS)}, "merges": MERGES}).encode()
STABLE = {
    **TEXT,
    "conditioners": [
        {
            "use": "clip_text",
            "name": "text",
            "vocab_size": len(CLIP_WORDS),
            "width": 24,
            "layers": 2,
            "heads": 2,
            "inner": 48,
            "dropout": 0.1,
        }
    ],
}


def with_words(weights: ModelWeights, state: bytes = VOCABULARY) -> ModelWeights:
    model = {**(weights.model or {}), "conditioners.text._extra_state": torch.tensor(list(state), dtype=torch.uint8)}
    return attrs.evolve(weights, model=model)


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


def folder_of(weights: ModelWeights, folder: Path) -> tuple[Path, list[str]]:
    """(the folder, notes) of `weights` as the codec writes them."""
    written = make_codec("diffusers", CATALOG).write(weights, folder.name)
    for name, content in written.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content())
    return folder, list(written.notes)
