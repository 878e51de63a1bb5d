"""AutoencoderKL and VQModel: their config.json to the fields of our first stages, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.autoencoder.keys import AutoencoderShape, autoencoder_weights
from ldm_plugin_diffusers.values import LAYERS, Values, multiples
from ldm_plugin_diffusers.weights import Stored, Taken, Weight, give_all, take

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = {"AutoencoderKL": "kl_ae", "VQModel": "vq_ae"}
"""Their class -> our component."""
_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
KL_SCALE = 0.18215
"""The scaling factor of Gaussian latents whose config has none; pipelines had it as a constant."""

LEAST = 1e-4
"""No scaling factor is below it, nor above its inverse."""


@attrs.frozen(kw_only=True)
class Autoencoder:
    """A first stage as its config describes it. `mean`, `std`: of raw latents, one number for all or one a channel."""

    use: str
    fields: Mapping[str, Any]
    shape: AutoencoderShape
    weights: Sequence[Weight]
    mean: Sequence[float]
    std: Sequence[float]
    identity: Sequence[str] = ()
    sample_size: tuple[int, int] | None = None
    notes: Sequence[str] = ()

    @property
    def factor(self) -> int:
        """Pixels of a latent cell."""
        return 2 ** (len(self.shape.channel_mult) - 1)

    def read(self, stored: Stored) -> tuple[dict[str, Tensor], Taken]:
        """The weights in our names with the normalisation, and what was missing or too much."""
        import torch

        taken = take(self.weights, stored)
        tensors = dict(taken.tensors)
        for name in self.identity:  # no such layer there: one that changes nothing
            width = self.shape.moments if name == "quant_conv" else self.shape.z_channels
            tensors[f"{name}.weight"] = torch.eye(width)[:, :, None, None].clone()
            tensors[f"{name}.bias"] = torch.zeros(width)
        z = self.shape.z_channels
        for name, row in (("latent_mean", self.mean), ("latent_std", self.std)):
            tensors[name] = torch.tensor(row, dtype=torch.float64).float().expand(z).clone()
        return tensors, taken


def sizes(values: Values) -> tuple[int, int] | None:
    """`sample_size` as (height, width), or None where nothing is said."""
    size = values.get("sample_size")
    if size is None:
        return None
    pair = size if isinstance(size, list | tuple) else [size, size]
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 1 << 16 for v in pair):
        values.say("sample_size", "expected a whole number, or [height, width]")
        return None
    return pair[0], pair[1]


def read_autoencoder(plain: Mapping[str, Any], where: str) -> Autoencoder:
    """A config.json of one of :data:`CLASSES`. ConfigError with everything that our parts cannot express."""
    values = Values(plain, where)
    use = CLASSES[plain["_class_name"]]
    widths = values.wholes("block_out_channels", (64,))
    levels = len(widths)
    down = values.words("down_block_types", ["DownEncoderBlock2D"], _DOWN, levels)
    up = values.words("up_block_types", ["UpDecoderBlock2D"], _UP, levels)
    if [_DOWN[name] for name in down] != [_UP[name] for name in reversed(up)]:
        values.say("up_block_types", "this package's parts have attention at the same levels on both sides")
    images = values.whole("in_channels", 3)
    if images not in (1, 3) or values.whole("out_channels", 3) != images:
        values.say("in_channels", "this package's parts can express: 1 or 3, as many as out_channels")
    z = values.whole("latent_channels", 4 if use == "kl_ae" else 3)
    fields: dict[str, Any] = {
        "channels": widths[0],
        "channel_mult": list(multiples(values, "block_out_channels", widths)),
        "res_blocks": values.whole("layers_per_block", 1, most=LAYERS),
        "attention": [2**level for level, name in enumerate(down) if _DOWN[name]],
        "mid_attention": values.flag("mid_block_add_attention", True),
        "z_channels": z,
        "norm_groups": values.whole("norm_num_groups", 32),
    }
    values.only(act_fn="silu")
    size = sizes(values)
    notes: list[str] = []
    codes = 0
    absent: list[str] = []
    if use == "vq_ae":
        codes = fields["codebook_size"] = values.whole("num_vq_embeddings", 256)
        values.only(norm_type="group", lookup_from_codebook=False)
        if values.get("vq_embed_dim") not in (None, z):
            values.say("vq_embed_dim", f"this package's parts can express: latent_channels, {z}")
        mean, std = [0.0], [1.0]
        if "scaling_factor" in plain:
            std = [1 / values.number("scaling_factor", 1.0, least=LEAST, most=1 / LEAST)]
        else:
            notes.append(
                f"{where} has no scaling_factor: taken as 1, since it was written before there was one (diffusers "
                "itself would divide by 0.18215 today, see huggingface/diffusers#6725)"
            )
    else:
        absent = [n for n in ("quant_conv", "post_quant_conv") if not values.flag(f"use_{n}", True)]
        mean, std = _normalisation(values, z)
    values.ignore("sample_size", "force_upcast")
    values.finish()
    notes += [f"{where}: there is no {name}; one that changes nothing stands in its place" for name in absent]
    shape = AutoencoderShape(codes=codes, image_channels=images, **{k: fields[k] for k in _SHAPE})
    weights = autoencoder_weights(shape, quant="quant_conv" not in absent, post_quant="post_quant_conv" not in absent)
    return Autoencoder(
        use=use,
        fields=fields,
        shape=shape,
        weights=weights,
        mean=mean,
        std=std,
        identity=absent,
        sample_size=size,
        notes=notes,
    )


_SHAPE = ("channels", "channel_mult", "res_blocks", "attention", "mid_attention", "z_channels")


def _normalisation(values: Values, z: int) -> tuple[list[float], list[float]]:
    """(mean, std) of raw latents: scaling_factor and shift_factor, or the numbers for each channel."""
    scale = values.number("scaling_factor", KL_SCALE, least=LEAST, most=1 / LEAST)
    mean, std = [0.0 if values.get("shift_factor") is None else values.number("shift_factor", 0.0)], [1 / scale]
    rows = {}
    for key in ("latents_mean", "latents_std"):
        row = values.get(key)
        if row is None:
            continue
        if not isinstance(row, list) or len(row) != z or not all(_finite(v) for v in row):
            values.say(key, f"expected {z} finite numbers, one a channel")
        elif key == "latents_std" and min(row) <= 0:
            values.say(key, "expected numbers above 0")
        else:
            rows[key] = [float(v) for v in row]
    if len(rows) == 2:
        return rows["latents_mean"], [s / scale for s in rows["latents_std"]]
    if rows:
        values.say(next(iter(rows)), "latents_mean and latents_std come together")
    return mean, std


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


# ------------------------------------------------------------------------------------------------- and out


@attrs.frozen(kw_only=True)
class WrittenPart:
    """One component's config.json and tensors, both in their words."""

    class_name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    notes: Sequence[str] = ()


def write_autoencoder(recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], *, shift: bool = False) -> WrittenPart:
    """The first stage of a complete recipe. `shift`: whether its reader knows a shift_factor.

    ConfigError for another first stage, or one whose latents are normalised in a way that the format cannot hold.
    """
    part = recipe["first_stage"]
    ours = {v: k for k, v in CLASSES.items()}
    if part["use"] not in ours:
        raise ConfigError(
            f"first_stage '{part['use']}' has no counterpart in diffusers; it can hold: {', '.join(sorted(ours))}"
        )
    mult = [int(m) for m in part["channel_mult"]]
    if mult[0] != 1:
        raise ConfigError(
            f"first_stage.channel_mult begins with {mult[0]}; diffusers' autoencoders begin at their base width, 1"
        )
    vq = part["use"] == "vq_ae"
    levels = range(len(mult))
    shape = AutoencoderShape(
        codes=int(part["codebook_size"]) if vq else 0,
        image_channels=int(recipe["image_channels"]),
        **{k: part[k] for k in _SHAPE},
    )
    tensors = {k: v.detach().cpu() for k, v in tensors.items()}
    scale, offset, folded, notes = _folded(tensors, vq, shift)
    config: dict[str, Any] = {
        "_class_name": ours[part["use"]],
        "act_fn": "silu",
        "block_out_channels": [shape.channels * m for m in mult],
        "down_block_types": ["AttnDownEncoderBlock2D" if shape.attends(i) else "DownEncoderBlock2D" for i in levels],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if shape.attends(i) else "UpDecoderBlock2D" for i in reversed(levels)
        ],
        "in_channels": shape.image_channels,
        "out_channels": shape.image_channels,
        "latent_channels": shape.z_channels,
        "layers_per_block": shape.res_blocks,
        "mid_block_add_attention": shape.mid_attention,
        "norm_num_groups": part["norm_groups"],
        "sample_size": max(recipe["image_size"]),
        "scaling_factor": scale,
    }
    if vq:
        config |= {"num_vq_embeddings": shape.codes, "vq_embed_dim": shape.z_channels}
    elif offset:
        config["shift_factor"] = offset
    return WrittenPart(
        class_name=config["_class_name"],
        config=config,
        tensors=give_all(autoencoder_weights(shape), folded, "first_stage", elsewhere=("latent_mean", "latent_std")),
        notes=notes,
    )


def _folded(
    tensors: Mapping[str, Tensor], vq: bool, shift: bool
) -> tuple[float, float, Mapping[str, Tensor], list[str]]:
    """(scaling_factor, shift_factor, tensors, notes): what one factor cannot say goes into the 1x1 convolutions around
    the latents, which is exact but for rounding."""
    from ldm_core.weights.normalization import folded, shortest_inverse

    mean, std = tensors["latent_mean"].double(), tensors["latent_std"].double()
    plain = bool((std == std[0]).all()) and bool((mean == mean[0]).all())
    if plain and (float(mean[0]) == 0 or (shift and not vq)):
        return shortest_inverse(float(std[0])), float(mean[0]), tensors, []
    out = folded(tensors, vq)
    if out is None:
        raise ConfigError(
            "first_stage: each channel of the latents has a std of its own "
            f"({', '.join(f'{s:.4g}' for s in std.tolist()[:4])}); VQModel has one scaling_factor, and stretching the "
            "codes would change which is nearest. A kl_ae can be written, or a vq_ae that was trained with "
            "first_stage_trainer.latent_std=one"
        )
    notes = [
        "the latents' mean and std by channel are part of quant_conv and post_quant_conv now"
        + (" and of the codebook" if vq else "")
        + "; scaling_factor is 1"
    ]
    return 1.0, 0.0, out, notes
