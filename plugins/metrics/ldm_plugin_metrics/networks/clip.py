"""CLIP's image tower (Radford et al., arXiv 2103.00020) with the names of transformers' files, as CMMD uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_metrics.networks import weights
from ldm_plugin_metrics.networks.config import WeightsConfig
from ldm_plugin_metrics.networks.network import Network

HOW = (
    'get them once, on a machine with internet: python -c "from transformers import CLIPVisionModelWithProjection as C'
    "; C.from_pretrained('openai/clip-vit-large-patch14-336').save_pretrained('clip')\" (then weights=clip)"
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The mean and deviation of CLIP's training pixels, in [0, 1]."""
_PARTS = ("vision_model.", "visual_projection.")
_CLASS, _PATCH, _PLACES, _LAYER = (
    f"vision_model.{name}"
    for name in (
        "embeddings.class_embedding",
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.",
    )
)
_INNER, _PROJECTION = f"{_LAYER}0.mlp.fc1.weight", "visual_projection.weight"


class Embeddings(nn.Module):
    """Patches as tokens, behind a token of the whole picture, with learned positions."""

    def __init__(self, width: int, patch: int, places: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(places, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + patches, width)."""
        tokens = self.patch_embedding(x).flatten(2).mT
        whole = self.class_embedding.expand(len(x), 1, -1)
        return torch.cat([whole, tokens], 1) + self.position_embedding.weight


class Layer(nn.Module):
    """Attention and a perceptron of two layers, each behind a norm and beside its input."""

    def __init__(self, width: int, inner: int, heads: int, eps: float, quick: bool) -> None:
        super().__init__()
        self.heads, self.quick = heads, quick
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, width) -> (B, L, width)."""
        y = self.layer_norm1(x)
        q, k, v = (self.self_attn[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in _QKV)
        x = x + self.self_attn["out_proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))


_QKV = ("q_proj", "k_proj", "v_proj")


class ClipTower(Network):
    """Features ``embedding`` (B, width): CLIP's embedding of a picture, of length 1.

    `weights` is a file or folder as transformers saves CLIP or its image half, with its ``config.json``; sizes are
    those of the tensors. Pictures are scaled whole to the tower's side by a bicubic filter without antialias, as by
    CMMD's authors. Raises ConfigError for random weights, StorageError if the file cannot be read, and CheckpointError
    if it holds no such tower.
    """

    main = "embedding"
    mean: Tensor
    std: Tensor

    def __init__(self, config: WeightsConfig) -> None:
        super().__init__()
        if config.random_seed is not None:
            raise ConfigError("random_seed: clip has its sizes from its file; give weights")
        tensors, source = weights.read(config, "CLIP's image tower", HOW, parts=_PARTS)
        facts = source.config("config.json") or {}
        self._make(tensors, facts.get("vision_config") or facts, source.url)
        weights.fit(self, tensors, "CLIP's image tower", ("position_ids", "vision_model.embeddings.position_ids"))
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        digest = source.sha256()
        shape = f"ViT {self.depth} x {tensors[_CLASS].numel()}, {self.side} px"
        self.title = f"CLIP {shape}, weights {digest[:8]}"
        self.source = f"CLIP {shape}, sha256 {digest}, embedding of length 1, bicubic {self.side}"
        self.widths = {self.main: len(tensors[_PROJECTION])}
        self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W), uint8 -> ``embedding`` (B, width)."""
        x = F.interpolate(images.float() / 255, size=(self.side, self.side), mode="bicubic")
        x = self.vision_model["embeddings"]((x - self.mean) / self.std)
        x = self.vision_model["pre_layrnorm"](x)
        for layer in self.layers:
            x = layer(x)
        x = self.visual_projection(self.vision_model["post_layernorm"](x[:, 0]))
        return {self.main: F.normalize(x, dim=-1)}

    def _make(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
        """The modules, of the sizes of the tensors."""
        if lacking := [key for key in (_CLASS, _PATCH, _PLACES, _INNER, _PROJECTION) if key not in tensors]:
            raise CheckpointError(f"weights: {where} holds no image tower of CLIP: it lacks {lacking[0]}; {HOW}")
        width, patch, places = len(tensors[_CLASS]), tensors[_PATCH].shape[-1], len(tensors[_PLACES])
        numbers = [int(key.removeprefix(_LAYER).partition(".")[0]) for key in tensors if key.startswith(_LAYER)]
        heads, act = facts.get("num_attention_heads") or width // 64, facts.get("hidden_act") or "quick_gelu"
        if act not in ("quick_gelu", "gelu") or not isinstance(heads, int) or heads < 1 or width % heads:
            raise CheckpointError(
                f"weights: {where}'s config has hidden_act {str(act)[:40]} and {str(heads)[:40]} heads for {width} "
                "channels; expected quick_gelu or gelu, and a divisor"
            )
        eps = float(facts.get("layer_norm_eps") or 1e-5)
        self.depth, self.side = 1 + max(numbers), round((places - 1) ** 0.5) * patch
        self.layers = [Layer(width, len(tensors[_INNER]), heads, eps, act == "quick_gelu") for _ in range(self.depth)]
        self.vision_model = nn.ModuleDict(
            {
                "embeddings": Embeddings(width, patch, places),
                "pre_layrnorm": nn.LayerNorm(width, eps),
                "encoder": nn.ModuleDict({"layers": nn.ModuleList(self.layers)}),
                "post_layernorm": nn.LayerNorm(width, eps),
            }
        )
        self.visual_projection = nn.Linear(width, len(tensors[_PROJECTION]), bias=False)
