"""The layout of a CompVis state dict: the parts' prefixes, spare names, and the names of averages.

Imports no torch. Facts from the released code's behaviour: prefixes, buffers of the schedule, the rule from a
parameter's name to its average's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from ldm_core.contracts.codec import TensorFile

Shapes = Mapping[str, tuple[int, ...]]
NAME = "compvis"
"""The codec's."""

UNET = ("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out", "id_predictor")
AUTOENCODER = ("encoder", "decoder", "quant_conv", "post_quant_conv", "quantize")
"""First words of the tensor names of each, relative to it."""

DENOISERS = ("model.diffusion_model.", "diffusion_model.", "")
FIRST_STAGES = ("first_stage_model.", "")
COND_STAGE = "cond_stage_model."
EMBEDDER = "conditioner.embedders."
"""Prefixes; the last is Stability's later code, with numbered conditioners."""

BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
"""The schedule as it is stored, (T,) each."""

ALLOWED: Mapping[str, str] = {
    rf"({'|'.join(BUFFERS)}|scale_factor)": "",
    r"ddim_(sigmas|alphas|alphas_prev|sqrt_one_minus_alphas)": "a sampler's tables",
    r"lvlb_weights": "weights of a loss",
    r"logvar": "a learned log-variance of the loss",
    r"(v_pred|ztsnr|denoiser\.sigmas)": "",
    r"((first_stage_model|cond_stage_model)\.)?loss\..+": "losses (perceptual network, discriminator)",
    r"((first_stage_model|cond_stage_model)\.)?colorize": "colours for showing label maps",
    r"((first_stage_model|cond_stage_model)\.)?quantize\.used": "a renumbering of the codes",
    r"((first_stage_model|cond_stage_model)\.)?model_ema\..+": "",
    r"(cond_stage_model|conditioner\.embedders\.0)\.transformer\.(text_model\.)?embeddings\.position_ids": "",
    r"(cond_stage_model|conditioner\.embedders\.0)\.(model\.)?(logit_scale|attn_mask|text_projection)": (
        "CLIP's projection, which joins text and pictures"
    ),
}
"""Names possible and not needed: pattern -> its meaning, for the notes; empty: not worth a note."""
_ALLOWED = [(re.compile(pattern + r"\Z"), what) for pattern, what in ALLOWED.items()]


@attrs.frozen(kw_only=True)
class Layout:
    """Prefixes of the parts, None for a missing part; `embedders`: the number of numbered conditioners."""

    denoiser: str | None
    first_stage: str | None
    conditioner: str | None
    embedders: int = 0
    ema: bool = False

    def of_denoiser(self, shapes: Shapes) -> Shapes:
        """The U-Net's tensors, names relative to it."""
        return below(shapes, self.denoiser, UNET if self.denoiser == "" else None)

    def of_first_stage(self, shapes: Shapes) -> Shapes:
        """The first stage's tensors, names relative to it, without losses and averages."""
        return below(shapes, self.first_stage, AUTOENCODER)

    def of_conditioner(self, shapes: Shapes) -> Shapes:
        """The conditioner's tensors, names relative to it; a text model's with or without its last prefix alike."""
        found = below(shapes, self.conditioner)
        bare = "transformer.embeddings.token_embedding.weight" in found
        return {k.replace("transformer.", "transformer.text_model.", 1): v for k, v in found.items()} if bare else found


def layout_of(file: TensorFile) -> Layout | None:
    """The layout of a file, None if it holds neither a U-Net nor an autoencoder under these names."""
    names = file.infos
    if "ldm_core" in file.metadata:
        return None  # our own format, whose first stages have the same names
    denoiser = next((p for p in DENOISERS if {p + "input_blocks.0.0.weight", p + "out.2.weight"} <= names.keys()), None)
    stage = next(
        (p for p in FIRST_STAGES if {p + "encoder.conv_in.weight", p + "decoder.conv_in.weight"} <= names.keys()), None
    )
    if denoiser is None and stage is None:
        return None
    embedders = {k.split(".")[2] for k in names if k.startswith(EMBEDDER)}
    conditioner = None
    if embedders:
        conditioner = f"{EMBEDDER}{min(embedders)}."
    elif any(k.startswith(COND_STAGE) for k in names):
        conditioner = COND_STAGE
    return Layout(
        denoiser=denoiser,
        first_stage=stage,
        conditioner=conditioner,
        embedders=len(embedders),
        ema=any(k.startswith("model_ema.") and k.split(".", 1)[1] not in ("decay", "num_updates") for k in names),
    )


def shapes_of(file: TensorFile) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by name."""
    return {name: tuple(info.shape) for name, info in file.infos.items()}


def below(shapes: Shapes, prefix: str | None, first: Iterable[str] | None = None) -> dict[str, tuple[int, ...]]:
    """The names under `prefix` without it; with `first`, only those with one of these as their first word."""
    if prefix is None:
        return {}
    words = None if first is None else set(first)
    found = {k[len(prefix) :]: v for k, v in shapes.items() if k.startswith(prefix)}
    return {k: v for k, v in found.items() if words is None or k.split(".", 1)[0] in words}


def averaged(name: str) -> str:
    """The name of a parameter's average; `name` is relative to the averaged module (``diffusion_model.out.2.bias``).

    Every dot goes, so a name cannot be read back: look up the averages of known parameters.
    """
    return "model_ema." + name.replace(".", "")


def allowed(name: str) -> str | None:
    """The meaning of a needless name ("" for a common one), None for one out of place."""
    return next((what for pattern, what in _ALLOWED if pattern.match(name)), None)
