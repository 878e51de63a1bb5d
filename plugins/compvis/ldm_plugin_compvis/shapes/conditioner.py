"""The conditioner in a file, from the names and shapes of its tensors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_plugin_compvis.layout import clip as clip_keys

Shapes = Mapping[str, tuple[int, ...]]
_TOKENS = "transformer.token_emb.weight"
_PLACES = "transformer.pos_emb.emb.weight"
_FIRST_LAYER = "transformer.attn_layers.layers.0.1.to_q.weight"
_HEAD = 64


class NotThisConditioner(ValueError):
    """The tensors are those of no conditioner of the plugins here; the message describes them."""


@attrs.frozen(kw_only=True)
class ConditionerShapes:
    """A conditioner: `use`, the `fields` of its config as far as shapes say them, and other possible components.

    `others`: fields by component. `asked`: settings said by nothing, with their candidates. `openclip`: true for
    OpenCLIP's names (Stable Diffusion 2).
    """

    use: str
    fields: Mapping[str, Any] = attrs.field(default=EMPTY)
    others: Mapping[str, Mapping[str, Any]] = attrs.field(default=EMPTY)
    asked: Mapping[str, Sequence[Any]] = attrs.field(default=EMPTY)
    openclip: bool = False

    @property
    def candidates(self) -> tuple[str, ...]:
        """The possible components, if there are several."""
        return (self.use, *self.others) if self.others else ()

    def chosen(self, use: str) -> ConditionerShapes:
        """The same as component `use`, one of the candidates."""
        return attrs.evolve(self, use=use, fields=self.others.get(use, self.fields), others=EMPTY)


def conditioner_shapes(
    shapes: Shapes, concat: int, crossattn: int, cond_key: str = "", text_layer: str = ""
) -> ConditionerShapes | None:
    """Names relative to the conditioner, with shapes -> the conditioner; None for a model without conditioning.

    `concat`, `crossattn`: read by the U-Net beside the latents. `cond_key`, `text_layer`: a config's names for the
    condition, and for its layer in a CLIP text encoder. Raises :class:`NotThisConditioner`.
    """
    if clip_keys.TOKENS in shapes or clip_keys.OPEN_TOKENS in shapes:
        return _clip(shapes, text_layer)
    if _TOKENS in shapes:
        return _tokens(shapes, cond_key)
    if "embedding.weight" in shapes:
        rows, width = shapes["embedding.weight"]
        # Published tables of ImageNet have 1,000 rows, or 1,001 where the last is "no class".
        null = rows == 1001
        return ConditionerShapes(use="class_label", fields={"classes": rows - null, "width": width, "null_class": null})
    if "channel_mapper.weight" in shapes:
        channels, classes = shapes["channel_mapper.weight"][:2]
        return ConditionerShapes(use="semantic_map", fields={"classes": classes, "channels": channels})
    others = {k.split(".")[0] for k in shapes} - {"encoder", "decoder", "quantize", "quant_conv", "post_quant_conv"}
    if others - {"loss", "model_ema", "colorize"}:
        raise NotThisConditioner(
            f"the conditioner holds {', '.join(sorted(others)[:4])}, which no plugin here knows (known: "
            "text and layout transformers, CLIP, class tables, label maps)"
        )
    if crossattn:
        return ConditionerShapes(use="embedding", fields={"width": crossattn})
    if shapes or cond_key == "masked_image":
        return ConditionerShapes(use="masked_image")
    return ConditionerShapes(use="low_resolution", fields={"image_channels": concat}) if concat else None


def _clip(shapes: Shapes, layer: str) -> ConditionerShapes:
    openclip = clip_keys.OPEN_TOKENS in shapes
    known = (clip_keys.LAST, clip_keys.PENULTIMATE) if openclip else (clip_keys.LAST,)
    if layer and layer not in known:
        raise NotThisConditioner(
            f"its configuration takes layer '{layer[:40]}' of the text encoder; conditioner clip_text gives "
            f"{' or '.join(known)}"
        )
    return ConditionerShapes(
        use="clip_text",
        fields=clip_keys.fields_of(shapes, layer),
        asked={"skip": (1, 0)} if clip_keys.layer_unknown(shapes, layer) else EMPTY,
        openclip=openclip,
    )


def _tokens(shapes: Shapes, cond_key: str) -> ConditionerShapes:
    """A transformer over tokens: captions or layouts, different in nothing but numbers."""
    vocab, width = shapes[_TOKENS]
    if _PLACES not in shapes or _FIRST_LAYER not in shapes:
        raise NotThisConditioner(
            "the conditioner's table of tokens has no transformer with it; keep the recipe.yaml of such a model with it"
        )
    length = shapes[_PLACES][0]
    inner = shapes[_FIRST_LAYER][0]
    at = len("transformer.attn_layers.layers.")
    layers = 1 + max(int(k[at:].split(".")[0]) for k in shapes if k.startswith("transformer.attn_layers.layers."))
    if inner % _HEAD:
        heads = {"heads": 1, "head_width": inner}
    else:
        heads = {"heads": inner // _HEAD, "head_width": _HEAD}
    fields: dict[str, Any] = {
        "vocab_size": vocab,
        "width": width,
        "layers": layers // 2,
        **heads,
        "logits": "transformer.to_logits.weight" in shapes,
    }
    boxes = {**fields, "objects": (length - length % 3) // 3, "encode_crop": length % 3 == 2}
    if cond_key == "coordinates_bbox" or (not cond_key and (vocab, length) == (8192, 92)):
        return ConditionerShapes(use="bbox_layout", fields=boxes)
    text = {**fields, "length": length}
    if cond_key or vocab == 30522 or length % 3 == 1:
        return ConditionerShapes(use="text", fields=text)
    return ConditionerShapes(use="text", fields=text, others={"bbox_layout": boxes})
