"""CLIP's text transformer from transformers, with the names of published checkpoints whatever its version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.errors import ComponentError
from ldm_core.nn.torchvision_operators import importable
from ldm_plugin_clip_text.config import ClipTextConfig


class _FirstLayers(nn.ModuleList):
    """All layers are registered, the first `used` of them run."""

    def __init__(self, layers: nn.ModuleList, used: int) -> None:
        super().__init__(layers)
        self.used = used

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[: self.used])  # type: ignore[arg-type]


class ClipText(nn.Module):
    """Token ids (B,L) -> (B,L,D): embeddings, causal layers without the last `skip`, final norm.

    Parameters are ``text_model.embeddings.*``, ``text_model.encoder.layers.N.*`` and ``text_model.final_layer_norm.*``.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        with importable():
            try:
                from transformers import CLIPTextConfig, CLIPTextModel
            except ImportError as error:
                raise ComponentError(
                    f"clip_text: transformers' CLIPTextModel cannot be imported ({str(error).splitlines()[0]}); "
                    "reinstall transformers and torchvision, in builds for the torch at hand"
                ) from error
        model: Any = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                intermediate_size=config.inner,
                projection_dim=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.length,
                hidden_act=config.activation,
                layer_norm_eps=1e-5,
                # Only the pooled vector, which is not used, looks at these; they have to be in the table.
                bos_token_id=max(config.vocab_size - 2, 0),
                eos_token_id=config.vocab_size - 1,
                pad_token_id=None,
            )
        )
        # Until version 5 the transformer was the part text_model of the model, since then it is the model.
        self.text_model: Any = getattr(model, "text_model", model)
        if config.skip:
            layers = self.text_model.encoder.layers
            self.text_model.encoder.layers = _FirstLayers(layers, config.layers - config.skip)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` (B,L) int64 -> (B,L,D)."""
        # Not the module's own positions: they are no part of the state, so a module made on "meta" would lack them.
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        return self.text_model(input_ids=tokens, position_ids=positions).last_hidden_state
