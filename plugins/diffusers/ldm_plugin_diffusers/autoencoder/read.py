"""AutoencoderKL and VQModel as first stages of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from ldm_plugin_diffusers.autoencoder.keys import CLASSES, DOWN, FIELDS, UP, AutoencoderShape, autoencoder_weights
from ldm_plugin_diffusers.component import ReadPart
from ldm_plugin_diffusers.values import Plain, Values, is_number
from ldm_plugin_diffusers.weights import Stored, Taken

KL_SCALE = 0.18215
"""The scaling factor of Gaussian latents without one in their config; pipelines had it as a constant."""
LEAST = 1e-4
"""The smallest scaling factor; its inverse is the largest."""


@attrs.frozen(kw_only=True)
class Autoencoder(ReadPart):
    """A first stage as its config describes it; `absent`: the convolutions it lacks.

    `mean` and `std` of raw latents are one number for all channels, or one a channel.
    """

    kind: ClassVar[str] = "first_stage"
    shape: AutoencoderShape
    mean: Sequence[float]
    std: Sequence[float]
    absent: Sequence[str] = ()
    sample_size: tuple[int, int] | None = None

    @property
    def factor(self) -> int:
        """Pixels of a latent cell."""
        return 2 ** (len(self.shape.channel_mult) - 1)

    def recipe(self) -> dict[str, Any]:
        """Plain recipe values, without the image size."""
        return {"image_channels": self.shape.image_channels, **super().recipe()}

    def read(self) -> Taken:
        """The tensors under a first stage's names, with its normalisation. Identities replace absent convolutions."""
        import torch

        taken = super().read()
        tensors = dict(taken.tensors)
        for name in self.absent:
            width = self.shape.moments if name == "quant_conv" else self.shape.z_channels
            tensors[f"{name}.weight"] = torch.eye(width)[:, :, None, None].clone()
            tensors[f"{name}.bias"] = torch.zeros(width)
        z = self.shape.z_channels
        for name, row in (("latent_mean", self.mean), ("latent_std", self.std)):
            tensors[name] = torch.tensor(row, dtype=torch.float64).float().expand(z).clone()
        return attrs.evolve(taken, tensors=tensors)


def read_autoencoder(plain: Plain, where: str, stored: Stored) -> Autoencoder:
    """The first stage of a config.json. ConfigError with everything beyond our parts."""
    values = Values(plain, where)
    use = CLASSES[plain["_class_name"]]
    widths, attention = _levels(values)
    fields: dict[str, Any] = {"channels": widths[0], "channel_mult": values.multiples("block_out_channels", widths)}
    fields |= {"attention": attention, **values.fields(FIELDS[use])}
    images = values.whole("in_channels", 3)
    if images not in (1, 3) or values.whole("out_channels", 3) != images:
        values.say("in_channels", "this package's parts can express: 1 or 3, as many as out_channels")
    values.only(act_fn="silu")
    absent: list[str] = []
    notes: list[str] = []
    if use == "vq_ae":
        mean, std = _of_codes(values, fields["z_channels"], notes)
    else:
        mean, std = _of_gaussians(values, fields["z_channels"])
        absent = [n for n in ("quant_conv", "post_quant_conv") if not values.flag(f"use_{n}", True)]
        notes += [f"{where}: there is no {name}; one that changes nothing stands in its place" for name in absent]
    size = values.sample_size()
    values.ignore("force_upcast")
    values.finish()
    shape = AutoencoderShape.of(fields, images)
    return Autoencoder(
        use=use,
        fields=fields,
        shape=shape,
        stored=stored,
        weights=autoencoder_weights(
            shape, quant="quant_conv" not in absent, post_quant="post_quant_conv" not in absent
        ),
        mean=mean,
        std=std,
        absent=absent,
        sample_size=size,
        notes=notes,
    )


def _levels(values: Values) -> tuple[tuple[int, ...], list[int]]:
    """(widths of the levels, factors of those with attention)."""
    widths = values.wholes("block_out_channels", (64,))
    down = values.words("down_block_types", ["DownEncoderBlock2D"], DOWN, len(widths))
    up = values.words("up_block_types", ["UpDecoderBlock2D"], UP, len(widths))
    if [DOWN[name] for name in down] != [UP[name] for name in reversed(up)]:
        values.say("up_block_types", "this package's parts have attention at the same levels on both sides")
    return widths, [2**level for level, name in enumerate(down) if DOWN[name]]


def _of_codes(values: Values, z: int, notes: list[str]) -> tuple[list[float], list[float]]:
    values.only(norm_type="group", lookup_from_codebook=False)
    if values.get("vq_embed_dim") not in (None, z):
        values.say("vq_embed_dim", f"this package's parts can express: latent_channels, {z}")
    if "scaling_factor" in values.plain:
        return [0.0], [1 / values.number("scaling_factor", 1.0, least=LEAST, most=1 / LEAST)]
    notes.append(
        f"{values.where} has no scaling_factor: taken as 1, since it was written before there was one (diffusers "
        "itself would divide by 0.18215 today, see huggingface/diffusers#6725)"
    )
    return [0.0], [1.0]


def _of_gaussians(values: Values, z: int) -> tuple[list[float], list[float]]:
    """From scaling_factor and shift_factor, or from the numbers for each channel."""
    scale = values.number("scaling_factor", KL_SCALE, least=LEAST, most=1 / LEAST)
    shift = 0.0 if values.get("shift_factor") is None else values.number("shift_factor", 0.0)
    rows = {}
    for key in ("latents_mean", "latents_std"):
        row = values.get(key)
        if row is None:
            continue
        if not isinstance(row, list) or len(row) != z or not all(is_number(v) and abs(v) < 1e30 for v in row):
            values.say(key, f"expected {z} finite numbers, one a channel")
        elif key == "latents_std" and min(row) <= 0:
            values.say(key, "expected numbers above 0")
        else:
            rows[key] = [float(v) for v in row]
    if len(rows) == 2:
        return rows["latents_mean"], [s / scale for s in rows["latents_std"]]
    if rows:
        values.say(next(iter(rows)), "latents_mean and latents_std come together")
    return [shift], [1 / scale]
