"""UNet2DModel and UNet2DConditionModel: their config.json to the fields of our U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts import CondSpec, LatentSpec
from ldm_plugin_diffusers.autoencoder.read import sizes
from ldm_plugin_diffusers.unet.keys import UNetShape, unet_weights
from ldm_plugin_diffusers.values import LAYERS, Values, multiples
from ldm_plugin_diffusers.weights import Weight

CLASSES = ("UNet2DModel", "UNet2DConditionModel")
"""The classes that are read."""

# block type -> (attention, how it resamples: conv, resnet, or as the config's *_type says)
PLAIN_DOWN = {
    "DownBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "resnet"),
    "AttnDownBlock2D": (True, ""),
}
PLAIN_UP = {
    "UpBlock2D": (False, "conv"),
    "ResnetUpsampleBlock2D": (False, "resnet"),
    "AttnUpBlock2D": (True, ""),
}
CROSS_DOWN = {**dict(list(PLAIN_DOWN.items())[:2]), "CrossAttnDownBlock2D": (True, "conv")}
CROSS_UP = {**dict(list(PLAIN_UP.items())[:2]), "CrossAttnUpBlock2D": (True, "conv")}


@attrs.frozen(kw_only=True)
class Denoiser:
    """A U-Net as its config describes it; `concat`: input channels beyond the latents'."""

    fields: Mapping[str, Any]
    shape: UNetShape
    weights: Sequence[Weight]
    sample_size: tuple[int, int] | None
    notes: Sequence[str] = ()

    @property
    def concat(self) -> int:
        """Channels that come with the latents."""
        return self.shape.inputs - self.shape.outputs

    @property
    def latent(self) -> LatentSpec:
        """The latents that it denoises; their stride is the first stage's, which a U-Net does not know."""
        return LatentSpec(self.shape.outputs)

    @property
    def cond(self) -> CondSpec:
        """The widths of its conditioning."""
        return CondSpec(crossattn=self.shape.crossattn, vector=self.shape.vector, concat=self.concat)


def read_unet(plain: Mapping[str, Any], where: str) -> Denoiser:
    """A config.json of one of :data:`CLASSES`. ConfigError with everything that our U-Net cannot express."""
    plain = {k: _today(v) if k in ("down_block_types", "up_block_types") else v for k, v in plain.items()}
    values = Values(plain, where)
    cross = plain["_class_name"] == "UNet2DConditionModel"
    widths = values.wholes("block_out_channels", (320, 640, 1280, 1280) if cross else (224, 448, 672, 896))
    attending, updown = _blocks(values, cross, len(widths))
    res_blocks = values.same("layers_per_block", 2, len(widths))
    inputs, outputs = (values.whole(k, 4 if cross else 3) for k in ("in_channels", "out_channels"))
    if inputs < outputs:
        values.say("out_channels", f"this package's U-Net gives out what it denoises, at most in_channels ({inputs})")
    groups = values.whole("norm_num_groups", 32)
    scale_shift = values.choice("resnet_time_scale_shift", "default", ("default", "scale_shift")) == "scale_shift"
    if values.number("norm_eps", 1e-5) != 1e-5:
        values.say("norm_eps", "this package's U-Net has 1e-05")
    values.only(
        center_input_sample=False,
        time_embedding_type="positional",
        time_embedding_dim=4 * widths[0] if values.get("time_embedding_dim") else None,
        freq_shift=0,
        flip_sin_to_cos=True,
        mid_block_scale_factor=1,
        downsample_padding=1,
        act_fn="silu",
    )
    read = _cross if cross else _plain
    special = read(values, widths, attending, groups, scale_shift)
    size = sizes(values)
    dropout = values.number("dropout", 0.0, least=0.0, most=1.0)
    values.ignore("sample_size", "num_train_timesteps")
    mult = list(multiples(values, "block_out_channels", widths))
    values.finish()
    notes = special.pop("notes", [])
    heads = special.pop("heads")
    fields: dict[str, Any] = {
        "channels": widths[0],
        "channel_mult": mult,
        "res_blocks": res_blocks,
        "attention": [2**level for level in range(len(widths)) if level in attending],
        "norm_groups": groups,
        "dropout": dropout,
        "scale_shift_norm": scale_shift,
        "resblock_updown": updown,
        **special.pop("fields"),
    }
    shape = UNetShape(
        inputs=inputs,
        outputs=outputs,
        heads=heads,
        **{k: fields[k] for k in ("channels", "channel_mult", "res_blocks", "attention")},
        scale_shift_norm=scale_shift,
        resblock_updown=updown,
        **special,
    )
    return Denoiser(fields=fields, shape=shape, weights=unet_weights(shape), sample_size=size, notes=notes)


def _today(names: Any) -> Any:
    """Block types as they are called today; the first version had a prefix."""
    if not isinstance(names, list | tuple):
        return names
    return [n.removeprefix("UNetRes") if isinstance(n, str) else n for n in names]


def _blocks(values: Values, cross: bool, levels: int) -> tuple[set[int], bool]:
    """The levels with attention, and whether residual blocks resample; said where a mixture cannot be expressed."""
    down, up = (CROSS_DOWN, CROSS_UP) if cross else (PLAIN_DOWN, PLAIN_UP)
    name = "CrossAttn" if cross else "Attn"
    default = [f"{name}DownBlock2D"] * 3 + ["DownBlock2D"] if cross else ["DownBlock2D"] + [f"{name}DownBlock2D"] * 3
    before = values.words("down_block_types", default, down, levels)
    turned = [d.replace("Down", "Up", 1).replace("Upsample", "Upsample") for d in reversed(default)]
    after = tuple(reversed(values.words("up_block_types", turned, up, levels)))
    attending = {level for level, block in enumerate(before) if down[block][0]}
    if attending != {level for level, block in enumerate(after) if up[block][0]}:
        values.say("up_block_types", "this package's U-Net has attention at the same levels on both sides")
    kinds = {"down": "conv", "up": "conv"}
    if not cross:
        kinds = {side: values.choice(f"{side}sample_type", "conv", ("conv", "resnet")) for side in kinds}
    found = {down[block][1] or kinds["down"] for block in before[:-1]}
    found |= {up[block][1] or kinds["up"] for block in after[1:]}
    if len(found) > 1:
        values.say(
            "down_block_types", "this package's U-Net resamples in all levels by convolutions, or in all by resnets"
        )
    return attending, found == {"resnet"}


def _plain(
    values: Values, widths: Sequence[int], attending: set[int], groups: int, scale_shift: bool
) -> dict[str, Any]:
    values.only(mid_block_type="UNetMidBlock2D", add_attention=True, class_embed_type=None, num_class_embeds=None)
    own = values.get("attn_norm_num_groups")
    if own != groups and (own is not None or scale_shift):  # null: the others', and none at all with scale_shift
        values.say("attn_norm_num_groups", f"this package's U-Net has the other norms' groups there: {groups}")
    # The one place where the word means what it says: the width of a head. None: one head.
    width = None
    if "attention_head_dim" not in values.plain or values.get("attention_head_dim") is not None:
        width = values.whole("attention_head_dim", 8)
        used = [w for level, w in enumerate(widths) if level in attending or level == len(widths) - 1]
        if uneven := [w for w in used if w % width]:
            values.say("attention_head_dim", f"it has to divide {uneven[0]}, the width of a level with attention")
    fields = {"head_channels": width} if width else {"heads": 1, "head_channels": 0}
    return {"fields": fields, "heads": [w // width if width else 1 for w in widths]}


def _cross(
    values: Values, widths: Sequence[int], attending: set[int], groups: int, scale_shift: bool
) -> dict[str, Any]:
    levels = len(widths)
    values.only(
        mid_block_type="UNetMidBlock2DCrossAttn",
        only_cross_attention=False,
        mid_block_only_cross_attention=None if values.get("mid_block_only_cross_attention") is None else False,
        reverse_transformer_layers_per_block=None,
        encoder_hid_dim=None,
        encoder_hid_dim_type=None,
        num_attention_heads=None,
        dual_cross_attention=False,
        num_class_embeds=None,
        resnet_skip_time_act=False,
        resnet_out_scale_factor=1.0,
        time_embedding_act_fn=None,
        timestep_post_act=None,
        time_cond_proj_dim=None,
        conv_in_kernel=3,
        conv_out_kernel=3,
        attention_type="default",
        class_embeddings_concat=False,
        cross_attention_norm=None,
    )
    values.ignore("upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim")
    vector, name, notes = 0, "class_embedding", []
    by_class = values.choice("class_embed_type", None, (None, "projection"))
    by_text = values.choice("addition_embed_type", None, (None, "text_time"))
    if by_class and by_text:
        values.say("class_embed_type", "this package's U-Net has one vector: this or addition_embed_type")
    if by_class or by_text:
        vector = values.whole("projection_class_embeddings_input_dim", None)
    if by_text:
        name = "add_embedding"
        notes.append(f"{values.where}: its vector is the pooled text, then the embedded sizes (text_time)")
    values.ignore("projection_class_embeddings_input_dim")
    heads = values.one_or_each("attention_head_dim", 8, levels)  # there, the number of heads
    used = [level for level in range(levels) if level in attending or level == levels - 1]
    if any(widths[level] % heads[level] for level in used):
        values.say("attention_head_dim", f"it is the number of heads and has to divide the widths {list(widths)}")
    linear = values.flag("use_linear_projection", False)
    dims = {widths[level] // heads[level] for level in used}
    if len({heads[level] for level in used}) == 1:
        fields: dict[str, Any] = {"heads": heads[-1], "head_channels": 0}
    else:
        fields = {"head_channels": widths[-1] // heads[-1]}
        if len(dims) > 1:
            values.say("attention_head_dim", "this package's U-Net has one number of heads, or one width of a head")
    depth = values.same("transformer_layers_per_block", 1, levels)
    crossattn = values.one_or_each("cross_attention_dim", 1280, levels)
    if len(set(crossattn)) > 1:
        values.say("cross_attention_dim", "this package's U-Net has one context for all levels")
    fields |= {"transformer_depth": min(depth, LAYERS), "linear_projection": linear}
    return {
        "fields": fields,
        "heads": list(heads),
        "crossattn": crossattn[0],
        "vector": vector,
        "vector_name": name,
        "transformer_depth": depth,
        "linear_projection": linear,
        "notes": notes,
    }
