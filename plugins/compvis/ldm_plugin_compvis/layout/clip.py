"""CLIP text encoders: OpenCLIP's names and ours, those of transformers' CLIPTextModel. Imports no torch.

Stable Diffusion 1 stores transformers' names. Stable Diffusion 2 stores OpenCLIP's: their fused projections hold
queries, keys and values one below the other. The last of its 24 layers is not used (the context is the last but one's
output, normalised): 23 are taken, as in every published conversion. Of other depths all layers are taken, and ``skip``
counts those left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
OURS = "transformer.text_model."
TOKENS = OURS + "embeddings.token_embedding.weight"
OPEN = "model."
OPEN_TOKENS = OPEN + "token_embedding.weight"
_WHOLE = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_FUSED = ("q_proj", "k_proj", "v_proj")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\Z")
HEAD = 64
HUGE_LAYERS = 24
LAST, PENULTIMATE = "last", "penultimate"
"""Names in a configuration for the layer of OpenCLIP's with the condition as its output."""


def open_names(name: str) -> list[str]:
    """Our names held by one of OpenCLIP's (relative to ``model.``), relative to the text model.

    Three for a fused projection, in the order of their rows; none for an unknown name.
    """
    if name in _WHOLE:
        return [_WHOLE[name]]
    if (match := _BLOCK.match(name)) is None:
        return []
    layer, rest = f"encoder.layers.{match[1]}.", match[2]
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = rest.removeprefix("attn.in_proj_")
        return [f"{layer}self_attn.{part}.{kind}" for part in _FUSED]
    stem, _, kind = rest.rpartition(".")
    return [f"{layer}{_LAYER[stem]}.{kind}"] if stem in _LAYER and kind in ("weight", "bias") else []


def layers_of(shapes: Shapes) -> int:
    """The number of layers in names, OpenCLIP's or ours."""
    pattern = re.compile(r"(?:transformer\.text_model\.encoder\.layers|model\.transformer\.resblocks)\.(\d+)\.")
    return 1 + max((int(m[1]) for k in shapes if (m := pattern.match(k))), default=-1)


def taken(layers: int, layer: str) -> dict[str, int]:
    """The number of layers taken of OpenCLIP's `layers`, and of those left out of these, by the name `layer` of the
    condition's; ``""``: not named, the depth of the released encoder decides."""
    if layers == HUGE_LAYERS and layer != LAST:
        return {"layers": layers - 1, "skip": 0}
    return {"layers": layers, "skip": int(layer == PENULTIMATE and layers > 1)}


def layer_name(layers: int, skip: int) -> str:
    """The name in a configuration for the condition's layer of an encoder written with `layers`: CompVis' programs
    build the released encoder, of 24, for one of 23."""
    return PENULTIMATE if skip == 1 or (skip, layers) == (0, HUGE_LAYERS - 1) else LAST


def layer_unknown(shapes: Shapes, layer: str) -> bool:
    """True if the condition's layer of OpenCLIP's is open: no `layer`, and no released depth."""
    return not layer and OPEN_TOKENS in shapes and layers_of(shapes) not in (HUGE_LAYERS, HUGE_LAYERS - 1)


def unused(name: str, layers: int) -> bool:
    """True if an OpenCLIP name (relative to ``model.``) belongs to an unused layer."""
    match = _BLOCK.match(name)
    return match is not None and int(match[1]) >= layers


def fields_of(shapes: Shapes, layer: str = "") -> dict[str, Any]:
    """Settings of the conditioner ``clip_text`` by names, shapes and the name of OpenCLIP's `layer`; heads are 64 wide,
    as in all of CLIP."""
    is_open = OPEN_TOKENS in shapes
    vocab, width = shapes[OPEN_TOKENS if is_open else TOKENS]
    positions = shapes[OPEN + "positional_embedding" if is_open else OURS + "embeddings.position_embedding.weight"]
    inner = shapes[
        OPEN + "transformer.resblocks.0.mlp.c_fc.weight" if is_open else OURS + "encoder.layers.0.mlp.fc1.weight"
    ]
    return {
        "vocab_size": vocab,
        "width": width,
        **(taken(layers_of(shapes), layer) if is_open else {"layers": layers_of(shapes)}),
        "heads": max(width // HEAD, 1),
        "inner": inner[0],
        "length": positions[0],
        "activation": "gelu" if is_open else "quick_gelu",
        "padding": "!" if is_open else "<|endoftext|>",
    }


def expected(fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the text model, names relative to the conditioner, with its shape."""
    width, inner = fields["width"], fields["inner"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (fields["vocab_size"], width),
        "embeddings.position_embedding.weight": (fields["length"], width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    for layer in range(fields["layers"]):
        at = f"encoder.layers.{layer}."
        for norm in ("layer_norm1", "layer_norm2"):
            found |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        for part in (*_FUSED, "out_proj"):
            found |= {f"{at}self_attn.{part}.weight": (width, width), f"{at}self_attn.{part}.bias": (width,)}
        found |= {f"{at}mlp.fc1.weight": (inner, width), f"{at}mlp.fc1.bias": (inner,)}
        found |= {f"{at}mlp.fc2.weight": (width, inner), f"{at}mlp.fc2.bias": (width,)}
    return {OURS + name: shape for name, shape in found.items()}


def to_open(names: Mapping[str, Any], join: Any) -> dict[str, Any]:
    """Our tensors, by names relative to the conditioner, under OpenCLIP's; `join` puts three below one another."""
    out: dict[str, Any] = {}
    layers = layers_of(dict.fromkeys(names, ()))
    stored = [*_WHOLE, *(f"transformer.resblocks.{i}.{rest}" for i in range(layers) for rest in _block_names())]
    for name in stored:
        parts = [names[OURS + ours] for ours in open_names(name)]
        out[OPEN + name] = parts[0] if len(parts) == 1 else join(parts)
    return out


def _block_names() -> list[str]:
    plain = [f"{stem}.{kind}" for stem in _LAYER for kind in ("weight", "bias")]
    return [*plain, "attn.in_proj_weight", "attn.in_proj_bias"]
