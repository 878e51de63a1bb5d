"""UNet2DModel and UNet2DConditionModel as our U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from ldm_core.contracts.values import CondSpec, LatentSpec
from ldm_plugin_diffusers.component import ReadPart
from ldm_plugin_diffusers.unet.keys import CONSTANTS, CROSS, FIELDS, MIDDLE, UNetShape, blocks, unet_weights
from ldm_plugin_diffusers.values import Plain, Values
from ldm_plugin_diffusers.weights import Stored

_FALSE = ("class_embeddings_concat", "dual_cross_attention", "only_cross_attention", "resnet_skip_time_act")
_NULL = (
    *("cross_attention_norm", "encoder_hid_dim", "encoder_hid_dim_type", "num_attention_heads", "num_class_embeds"),
    *("reverse_transformer_layers_per_block", "time_cond_proj_dim", "time_embedding_act_fn", "timestep_post_act"),
)
_CROSS_CONSTANTS: Plain = {
    **dict.fromkeys(_FALSE, False),
    **dict.fromkeys(_NULL),
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "resnet_out_scale_factor": 1.0,
}


@attrs.frozen(kw_only=True)
class Denoiser(ReadPart):
    """A U-Net as its config describes it."""

    kind: ClassVar[str] = "denoiser"
    prefix: ClassVar[str] = "denoiser."
    shape: UNetShape
    sample_size: tuple[int, int] | None


def read_unet(plain: Plain, where: str, stored: Stored) -> Denoiser:
    """The U-Net of a config.json. ConfigError with everything that ours cannot express."""
    values = Values({key: _today(key, value) for key, value in plain.items()}, where)
    name = plain["_class_name"]
    widths = values.wholes("block_out_channels", (320, 640, 1280, 1280) if name == CROSS else (224, 448, 672, 896))
    inputs, outputs = (values.whole(k, 4 if name == CROSS else 3) for k in ("in_channels", "out_channels"))
    if inputs < outputs:
        values.say("out_channels", f"this package's U-Net gives out what it denoises, at most in_channels ({inputs})")
    attending, updown = _blocks(values, name, len(widths))
    shift = values.choice("resnet_time_scale_shift", "default", ("default", "scale_shift"))
    fields: dict[str, Any] = {
        "channels": widths[0],
        "channel_mult": values.multiples("block_out_channels", widths),
        "res_blocks": values.same("layers_per_block", 2, len(widths)),
        "attention": [2**level for level in attending],
        "scale_shift_norm": shift == "scale_shift",
        "resblock_updown": updown,
        **values.fields(FIELDS),
    }
    values.only(
        **CONSTANTS,
        mid_block_type=MIDDLE[name],
        time_embedding_type="positional",
        time_embedding_dim=4 * widths[0] if values.get("time_embedding_dim") else None,
    )
    # The levels whose attention is used; the middle block has one at the width of the last.
    used = {level: widths[level] for level in (*attending, len(widths) - 1)}
    notes: list[str] = []
    more: dict[str, Any] = {}
    if name == CROSS:
        fields |= _transformers(values, widths, used)
        more = {**_vector(values, notes), "crossattn": _context(values, len(widths))}
    else:
        fields |= _attention(values, used, fields)
    size = values.sample_size()
    values.ignore("num_train_timesteps")
    values.finish()
    shape = UNetShape.of(fields, inputs=inputs, outputs=outputs, **more)
    return Denoiser(
        use="unet",
        fields=fields,
        shape=shape,
        weights=unet_weights(shape),
        stored=stored,
        latent=LatentSpec(outputs),  # its stride is the first stage's
        cond=CondSpec(crossattn=shape.crossattn, vector=shape.vector, concat=inputs - outputs),
        sample_size=size,
        notes=notes,
    )


def _today(key: str, value: Any) -> Any:
    """A value with today's block types; those of the first version had a prefix."""
    if key not in ("down_block_types", "up_block_types") or not isinstance(value, list | tuple):
        return value
    return [n.removeprefix("UNetRes") if isinstance(n, str) else n for n in value]


def _blocks(values: Values, name: str, levels: int) -> tuple[list[int], bool]:
    """(levels with attention, residual blocks resample). A mixture cannot be expressed, and is noted."""
    down, up = blocks(name, "Down"), blocks(name, "Up")
    bare, _, attention = down
    default = [attention] * 3 + [bare] if name == CROSS else [bare] + [attention] * 3
    before = values.words("down_block_types", default, down, levels)
    turned = [d.replace("Down", "Up", 1) for d in reversed(default)]
    after = tuple(reversed(values.words("up_block_types", turned, up, levels)))
    attending = [level for level, block in enumerate(before) if down[block][0]]
    if attending != [level for level, block in enumerate(after) if up[block][0]]:
        values.say("up_block_types", "this package's U-Net has attention at the same levels on both sides")
    kinds = {"down": "conv", "up": "conv"}
    if name != CROSS:
        kinds = {side: values.choice(f"{side}sample_type", "conv", ("conv", "resnet")) for side in kinds}
    found = {down[block][1] or kinds["down"] for block in before[:-1]}
    found |= {up[block][1] or kinds["up"] for block in after[1:]}
    if len(found) > 1:
        values.say(
            "down_block_types", "this package's U-Net resamples in all levels by convolutions, or in all by resnets"
        )
    return attending, found == {"resnet"}


def _attention(values: Values, used: Mapping[int, int], fields: Plain) -> dict[str, Any]:
    values.only(add_attention=True, class_embed_type=None, num_class_embeds=None)
    groups, own = fields["norm_groups"], values.get("attn_norm_num_groups")
    if own != groups and (own is not None or fields["scale_shift_norm"]):  # null: the others', none with scale_shift
        values.say("attn_norm_num_groups", f"this package's U-Net has the other norms' groups there: {groups}")
    # Here alone the key means the width of a head; null is a single head.
    if values.get("attention_head_dim", 8) is None:
        return {"heads": 1, "head_channels": 0}
    width = values.whole("attention_head_dim", 8)
    if uneven := [w for w in used.values() if w % width]:
        values.say("attention_head_dim", f"it has to divide {uneven[0]}, the width of a level with attention")
    return {"head_channels": width}


def _transformers(values: Values, widths: Sequence[int], used: Mapping[int, int]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "transformer_depth": values.same("transformer_layers_per_block", 1, len(widths)),
        "linear_projection": values.flag("use_linear_projection", False),
    }
    null = values.get("mid_block_only_cross_attention") is None
    values.only(**_CROSS_CONSTANTS, mid_block_only_cross_attention=None if null else False)
    values.ignore("upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim")
    heads = values.one_or_each("attention_head_dim", 8, len(widths))  # in this class, the number of heads
    if any(width % heads[level] for level, width in used.items()):
        values.say("attention_head_dim", f"it is the number of heads and has to divide the widths {list(widths)}")
    if len({heads[level] for level in used}) == 1:
        return {**fields, "heads": heads[-1], "head_channels": 0}
    if len({width // heads[level] for level, width in used.items()}) > 1:
        values.say("attention_head_dim", "this package's U-Net has one number of heads, or one width of a head")
    return {**fields, "head_channels": widths[-1] // heads[-1]}


def _vector(values: Values, notes: list[str]) -> dict[str, Any]:
    """The width of the vector beside the time and the name of its layers, as far as there is one."""
    by_class = values.choice("class_embed_type", None, (None, "projection"))
    by_text = values.choice("addition_embed_type", None, (None, "text_time"))
    values.ignore("projection_class_embeddings_input_dim")
    if not by_class and not by_text:
        return {}
    if by_class and by_text:
        values.say("class_embed_type", "this package's U-Net has one vector: this or addition_embed_type")
    if by_text:
        notes.append(f"{values.where}: its vector is the pooled text, then the embedded sizes (text_time)")
    width = values.whole("projection_class_embeddings_input_dim", None)
    return {"vector": width, "vector_name": "add_embedding" if by_text else "class_embedding"}


def _context(values: Values, levels: int) -> int:
    widths = values.one_or_each("cross_attention_dim", 1280, levels)
    if len(set(widths)) > 1:
        values.say("cross_attention_dim", "this package's U-Net has one context for all levels")
    return widths[0]
