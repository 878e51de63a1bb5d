"""The settings that belong to the core itself: data, the two trainers, sampling. Torch-free, frozen, strict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ldm_core.contracts import EMPTY


def _field(
    default: Any, help: str, minimum: float | None = None, above: float | None = None, maximum: float | None = None
) -> Any:
    """A field with its help text and, where given, its limits (`above` is exclusive)."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if minimum is not None and value < minimum:
            raise ValueError(f"{attribute.name}: expected at least {minimum}, got {value}")
        if above is not None and value <= above:
            raise ValueError(f"{attribute.name}: expected more than {above}, got {value}")
        if maximum is not None and value > maximum:
            raise ValueError(f"{attribute.name}: expected at most {maximum}, got {value}")

    return attrs.field(default=default, metadata={"help": help}, validator=check)


def _betas(default: tuple[float, float]) -> Any:
    """AdamW's two decays, each 0 or more and below 1."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"{attribute.name}: expected two numbers, 0 or more and below 1, got {list(value)}")

    return attrs.field(default=default, validator=check, metadata={"help": "AdamW's decays of gradient and square"})


@attrs.frozen(kw_only=True)
class DataSettings:
    """How examples become batches."""

    fit: Literal["crop", "pad"] = _field("crop", "how an image of another shape becomes image_size")
    flip: bool = _field(False, "mirror examples at random (boxes and label maps move along)")
    workers: int = _field(0, "loader processes; 0 = load in the training process", minimum=0)
    keep: int = _field(1 << 30, "bytes of decoded examples kept in memory; 0 = none", minimum=0)


@attrs.frozen(kw_only=True)
class TrainerSettings:
    """How the denoiser and the trainable conditioners are trained."""

    steps: int = _field(500_000, "optimizer steps", minimum=1)
    images_per_step: int = _field(64, "images of one optimizer step, over all processes", minimum=1)
    accumulate: int = _field(1, "micro-batches of one step, one after the other", minimum=1)
    lr: float = _field(1e-4, "learning rate", above=0)
    schedule: Literal["constant", "cosine", "linear"] = _field("constant", "the learning rate after the warm-up")
    warmup_steps: int = _field(0, "steps in which the learning rate rises from 0", minimum=0)
    betas: tuple[float, float] = _betas((0.9, 0.999))
    weight_decay: float = _field(0.01, "AdamW's", minimum=0)
    clip: float = _field(0.0, "largest gradient norm; 0 = no clipping", minimum=0)
    ema: float = _field(0.9999, "largest decay of the averaged weights; 0 = no average", minimum=0, maximum=1)
    precision: Literal["fp32", "bf16"] = _field("fp32", "arithmetic inside the networks; weights stay fp32")
    zero: Literal[0, 1, 2] = _field(0, "DeepSpeed's ZeRO stage")
    deepspeed: Mapping[str, Any] = attrs.field(default=EMPTY, metadata={"help": "raw DeepSpeed settings, merged in"})
    log_every: int = _field(50, "steps between lines of metrics.jsonl", minimum=1)
    checkpoint_every: int = _field(1000, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = _field(2, "newest checkpoints that stay", minimum=1)
    joint_dropout: float = _field(0.0, "share of examples that lose all conditions at once", minimum=0, maximum=1)
    cache_latents: bool = _field(True, "encode the images once (needs a frozen first stage, as always here)")


@attrs.frozen(kw_only=True)
class FirstStageTrainerSettings:
    """How a first stage is trained: L1 + LPIPS + patch discriminator + its own regularisation."""

    steps: int = _field(500_000, "optimizer steps of the autoencoder", minimum=1)
    images_per_step: int = _field(32, "images of one optimizer step, over all processes", minimum=1)
    accumulate: int = _field(1, "micro-batches of one step, one after the other", minimum=1)
    lr: float = _field(4.5e-6 * 8, "learning rate of both optimizers", above=0)
    schedule: Literal["constant", "cosine", "linear"] = _field("constant", "the learning rate after the warm-up")
    warmup_steps: int = _field(0, "steps in which the learning rate rises from 0", minimum=0)
    betas: tuple[float, float] = _betas((0.5, 0.9))
    weight_decay: float = _field(0.0, "AdamW's", minimum=0)
    clip: float = _field(0.0, "largest gradient norm; 0 = no clipping", minimum=0)
    precision: Literal["fp32", "bf16"] = _field("fp32", "arithmetic inside the networks; weights stay fp32")
    zero: Literal[0, 1, 2] = _field(0, "DeepSpeed's ZeRO stage")
    deepspeed: Mapping[str, Any] = attrs.field(default=EMPTY, metadata={"help": "raw DeepSpeed settings, merged in"})
    log_every: int = _field(50, "steps between lines of metrics.jsonl", minimum=1)
    checkpoint_every: int = _field(1000, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = _field(2, "newest checkpoints that stay", minimum=1)
    pixel_loss: Literal["l1", "l2"] = _field("l1", "the loss on pixels")
    lpips: str = _field("", "path or URL of LPIPS weights (VGG16 and heads); none: trained without, and said so")
    perceptual_weight: float = _field(1.0, "weight of LPIPS", minimum=0)
    adversarial: bool = _field(True, "train a patch discriminator")
    adversarial_start: int | None = _field(None, "batch at which it comes in; null = the stage's own", minimum=0)
    adversarial_weight: float | None = _field(None, "its weight; null = the stage's own", minimum=0)
    discriminator_layers: int | None = _field(None, "its strided layers; null = the stage's own", minimum=1)
    discriminator_width: int = _field(64, "its base width", minimum=1)
    discriminator_norm: Literal["batch", "group"] = _field("group", "batch = as published, depends on rank count")
    codebook_start: int = _field(
        0, "batch (at most the last) from which a codebook quantises; before it the latents pass", minimum=0
    )
    codebook_init_images: int = _field(256, "images whose latents start a codebook; 0 = random start", minimum=0)
    revive_every: int = _field(0, "steps between revivals of codes that no latent used; 0 = never", minimum=0)
    statistics_images: int = _field(4096, "images over which the latents' mean and std are measured", minimum=1)


@attrs.frozen(kw_only=True)
class SampleSettings:
    """What a run samples at its end, and the defaults of ``ldm-run sample``. Not part of a run's identity."""

    steps: int = _field(50, "sampler steps", minimum=1)
    images: int = _field(16, "images", minimum=1)
    batch: int = _field(16, "images that are sampled together", minimum=1)
    seed: int = _field(0, "seed of the first image; image i has seed + i", minimum=0)
    prompts: tuple[str, ...] = attrs.field(default=(), metadata={"help": "prompts; none = taken from held-out data"})
    project_x0: bool = _field(False, "let the first stage quantise each estimate of x0")
    branches: Literal["together", "apart"] = _field("together", "guidance branches in one call, or one by one")
