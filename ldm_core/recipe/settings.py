"""The settings of the core itself: data, the two trainers, sampling. Torch-free, frozen, strict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import EMPTY, Config, configs
from ldm_core.contracts.values import DataInfo, Precision
from ldm_core.errors import clean, quoted

MAX_WIDTH = 0.28
"""The widest power-function average; one of equal weights for all steps has 1 / sqrt(12) = 0.289."""

MOST_PIXELS = 1 << 16
"""The largest side of an image."""


def _betas(default: tuple[float, float]) -> Any:
    """AdamW's two decays, each 0 or more and below 1."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:
        if not all(0 <= beta < 1 for beta in value):
            shown = quoted(list(value))
            raise ValueError(f"{attribute.name}: expected two numbers, 0 or more and below 1, got {shown}")

    return attrs.field(default=default, validator=check, metadata={"help": "AdamW's decays of gradient and square"})


def _widths(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    """Relative widths of averages, each once."""
    if not all(0 < width <= MAX_WIDTH for width in value) or len(set(value)) < len(value):
        raise ValueError(
            f"{attribute.name}: expected different numbers above 0 and up to {MAX_WIDTH}, got {quoted(list(value))}"
        )


@attrs.frozen(kw_only=True)
class RecipeSettings:
    """The keys of a recipe that are neither components nor sections."""

    image_size: int | tuple[int, int] = field(256, "pixels of the images' sides, or [height, width]")
    image_channels: Literal[1, 3] = field(3, "1 for grey images, 3 for colour")
    seed: int = field(0, "seed of weights, noise and the order of the data")
    scale: Literal["paper", "small"] = field("paper", "size of the parts; small = scaled down for a laptop's CPU")


@attrs.frozen(kw_only=True)
class DataSettings:
    """The way from examples to batches."""

    fit: Literal["crop", "pad"] = field("crop", "how an image of another shape becomes image_size")
    flip: bool = field(False, "mirror examples at random (boxes and label maps move along)")
    crop: Literal["center", "random"] = field("center", "where fit=crop cuts; random: another place each epoch")
    crop_scale: float = field(
        1.0, "random crops: the smallest side of the cut, as a share of the largest cut", above=0, maximum=1
    )
    buckets: tuple[tuple[int, int], ...] = attrs.field(
        default=(), metadata={"help": "further image sizes [[h, w], ...]: each example goes to the nearest shape"}
    )
    balance: str = field(
        "",
        "key of a class, such as class_label: all are drawn equally often, however few examples they have; within each "
        "part of a mixture",
        since="0.2",
    )
    workers: int = field(
        0, "loader processes; 0 = load in the training process", minimum=0, maximum=1024, changes_training=False
    )
    keep: int = field(1 << 30, "bytes of decoded examples kept in memory; 0 = none", minimum=0, changes_training=False)
    cache: str = field(
        "", "folder that keeps copies of remote shards; none: read where they lie", changes_training=False, place=True
    )
    cache_bytes: int = field(10 << 30, "bytes that this folder may hold", minimum=0, changes_training=False)


def balance_misfits(settings: DataSettings, where: str, info: DataInfo) -> Iterator[str]:
    """Yield a line if the data, called `where`, have no class of each example by which to balance them."""
    key, known = settings.balance, [k for k in info.classes if info.keys.get(k) == "value"]
    if key and key not in known:
        fix = f"choose of: {', '.join(known)}" if known else "it has none; leave data.balance out"
        yield f"data.balance: {where} has no class '{clean(key, 40)}' of each example; {fix}"


@attrs.frozen(kw_only=True)
class EngineSettings:
    """The settings shared by both trainers: steps, optimizer, precision, DeepSpeed, checkpoints, display."""

    steps: int = field(500_000, "optimizer steps", minimum=1)
    images_per_step: int = field(64, "images of one optimizer step, over all processes", minimum=1, maximum=10**6)
    accumulate: int = field(
        1, "micro-batches of one step, one after the other", minimum=1, maximum=10**6, changes_training=False
    )
    lr: float = field(1e-4, "learning rate", above=0, maximum=100)
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"] = field(
        "constant", "the learning rate after the warm-up"
    )
    warmup_steps: int = field(0, "steps in which the learning rate rises to lr", minimum=0)
    warmup_from: float = field(0.0, "where the warm-up begins, as a share of lr", minimum=0, maximum=1, since="0.2")
    decay_start: int = field(0, "steps after which inverse_sqrt falls; 0 = those of the warm-up", minimum=0)
    decay_end: int = field(0, "step at which cosine and linear have ended; 0 = the run's last", minimum=0, since="0.2")
    final_lr: float = field(0.0, "where cosine and linear end, as a share of lr", minimum=0, maximum=1)
    betas: tuple[float, float] = _betas((0.9, 0.999))
    weight_decay: float = field(0.01, "AdamW's", minimum=0)
    clip: float = field(0.0, "largest gradient norm; 0 = no clipping", minimum=0)
    precision: Precision = field("fp32", "arithmetic inside the networks; weights stay fp32")  # noqa: RUF009
    bad_steps: Literal["stop", "skip"] = field("stop", "a loss or gradient that is not finite: stop, or leave it out")
    max_bad_steps: int = field(10, "steps that may be left out one after the other", minimum=1)
    zero: Literal[0, 1, 2, 3] = field(0, "DeepSpeed's ZeRO stage", changes_training=False)
    offload: Literal["none", "optimizer", "all"] = field(
        "none", "what DeepSpeed keeps in host memory; all: optimizer and parameters (zero=3)", changes_training=False
    )
    activation_checkpointing: bool = field(
        False, "recompute activations in the backward pass: less memory", changes_training=False
    )
    compile: bool = field(False, "torch.compile the networks (needs a C++ compiler on a CPU)", changes_training=False)
    deepspeed: Mapping[str, Any] = attrs.field(
        default=EMPTY, metadata={"help": "raw DeepSpeed settings, merged in", "changes_training": False, "place": True}
    )
    deepspeed_file: str = field(
        "", "path or URL of a DeepSpeed JSON file, merged in before them", changes_training=False, place=True
    )
    log_every: int = field(50, "steps between lines of metrics.jsonl", minimum=1, changes_training=False)
    checkpoint_every: int = field(1000, "steps between checkpoints", minimum=1, changes_training=False)
    keep_checkpoints: int = field(2, "newest checkpoints that stay", minimum=1, changes_training=False)
    keep_every: int = field(
        0, "checkpoints at multiples of it stay for good; 0 = none", minimum=0, changes_training=False
    )
    background: bool = field(True, "write checkpoints in a thread while training goes on", changes_training=False)
    time_limit: float = field(
        0.0, "minutes until the run checkpoints and leaves; 0 = none", minimum=0, changes_training=False
    )
    preview_every: int = field(
        0, "steps between pictures (samples, reconstructions); 0 = at the end", minimum=0, changes_training=False
    )
    validate_every: int = field(
        0, "steps between measurements on held-out images; 0 = at the end", minimum=0, changes_training=False
    )
    validate_images: int = field(256, "held-out images that are measured", minimum=1, changes_training=False)
    init_from: str = field(
        "",
        "path or URL of trained weights to start from (finetuning); none: fresh weights",
        changes_training=False,
        place=True,
    )
    init_sha256: str = field("", "hash of those weights; filled in")


@attrs.frozen(kw_only=True)
class TrainerSettings(EngineSettings):
    """The training of the denoiser and the trainable conditioners."""

    train: Literal["all", "adapters"] = field(
        "all", "what learns; adapters: those alone, on the weights that init_from names"
    )
    ema: float = field(0.9999, "largest decay of the averaged weights; 0 = no average", minimum=0, maximum=1)
    ema_power: tuple[float, ...] = attrs.field(
        default=(),
        validator=_widths,
        metadata={"help": "relative widths of power-function averages, for post-hoc reconstruction: [0.05, 0.1]"},
    )
    ema_snapshots: int = field(
        0, "steps between snapshots of those averages; 0 = with the checkpoints", minimum=0, changes_training=False
    )
    evaluate_every: int = field(
        0, "steps between measurements of samples by the recipe's metrics; 0 = none", minimum=0, changes_training=False
    )
    evaluate_images: int = field(64, "samples that are measured", minimum=1, maximum=10**6, changes_training=False)
    keep_best: str = field(
        "", "a value of the metrics, such as fd: best.safetensors keeps its best step's weights", changes_training=False
    )
    joint_dropout: float = field(0.0, "share of examples that lose all conditions at once", minimum=0, maximum=1)
    cache_latents: bool = field(True, "encode the images once (needs a frozen first stage, as always here)")
    latents: str = field(
        "", "folder or URL of the encoded images; none: in the run's folder", changes_training=False, place=True
    )
    latents_dtype: Literal["fp32", "fp16", "bf16"] = field(
        "fp32", "how encoded images are stored: half the bytes, and the rounding that manifest.json tells"
    )


@attrs.frozen(kw_only=True)
class FirstStageTrainerSettings(EngineSettings):
    """The training of a first stage; ``stage_objective`` is what it is trained by."""

    images_per_step: int = field(32, "images of one optimizer step, over all processes", minimum=1, maximum=10**6)
    lr: float = field(4.5e-6 * 8, "learning rate of all optimizers", above=0, maximum=100)
    betas: tuple[float, float] = _betas((0.5, 0.9))
    weight_decay: float = field(0.0, "AdamW's", minimum=0)
    train: Literal["all", "decoder"] = field(
        "all",
        "what learns; decoder: it alone, of the trained stage that init_from names, whose latents stay",
        since="0.2",
    )
    statistics_images: int = field(4096, "images over which the latents' mean and std are measured", minimum=1)
    latent_std: Literal["channel", "one"] = field(
        "channel", "latents are divided by a std a channel, or one for all (formats of others hold one)", since="0.2"
    )


def _not_both(config: SampleSettings, attribute: Any, value: str | None) -> None:
    """One way from known pixels into holes."""
    if value == "poisson" and config.feather:
        raise ValueError(f"{attribute.name}: known pixels fade already (feather: {config.feather}); set one of them")


@attrs.frozen(kw_only=True)
class SampleSettings:
    """The samples at the end of a run, and the defaults of sampling. Not part of a run's identity."""

    steps: int = field(50, "sampler steps", minimum=1, maximum=10**6)
    images: int = field(16, "images", minimum=1, maximum=10**7)
    batch: int = field(16, "images that are sampled together", minimum=1, maximum=10**6)
    seed: int = field(0, "seed of the first image; image i has seed + i", minimum=0, maximum=1 << 62)
    prompts: tuple[str, ...] = attrs.field(default=(), metadata={"help": "prompts; none = taken from held-out data"})
    project_x0: bool = field(False, "let the first stage quantise each estimate of x0")
    quantize_x0: bool = field(
        False, "the same as the published samplers do it: the noise stays what the network gave", since="0.2"
    )
    levels: Literal["rounded", "cut"] = field(
        "rounded", "how values become the 256 levels of a picture; cut: the fraction is left out", since="0.2"
    )
    paste_known: bool = field(
        True, "inpainting: the input's own pixels outside of holes, bit for bit (older runs: false)", since="0.2"
    )
    feather: int = field(
        0, "inpainting: pixels around holes over which known ones fade into samples", 0, maximum=4096, since="0.2"
    )
    seams: Literal["poisson", "none"] | None = attrs.field(
        default=None,
        validator=_not_both,
        metadata={
            "help": "inpainting; poisson: the error of a sample at known pixels is spread over the hole, which has no "
            "edge then; null: poisson, unless known pixels fade (`feather`)",
            "since": "0.2",
        },
    )
    latent_scale: float = field(
        1.0,
        "latents are this times as large beside the noise; below 1: more steps at high noise, as large pictures need",
        above=0,
        maximum=1000,
        since="0.2",
    )
    colour_fix: Literal["wavelet", "back_projection", "none"] | None = field(
        None,
        "enlarged pictures are held to the given ones; wavelet: in their coarse colours; back_projection: made small "
        "by the bicubic filter they are the given ones; null: wavelet, for those with `whole` alone",
        since="0.2",
    )
    sharpen: float = field(
        0.0,
        "unsharp mask of samples: this times what a blur of 1 pixel takes away is added (`colour_fix` comes after)",
        0,
        maximum=10,
        since="0.2",
    )
    decoder: str = field(
        "",
        "another decoder of these latents: a name of the run's decoders, or the path or URL of a file; none: the first "
        "stage's own",
        since="0.2",
        place=True,
    )
    preview_decoder: str = field(
        "", "the same for pictures on the way, of training and of sampling; none: as `decoder`", since="0.2", place=True
    )
    runtime: str = field(
        "torch",
        "what computes the networks when sampling: torch, compiled, or a plugin's, such as openvino; a run's own "
        "pictures are torch's",
        since="0.2",
    )
    branches: Literal["together", "apart"] = field("together", "guidance branches in one call, or one by one")
    tile: int = field(
        1024,
        "pictures of more pixels than a square of this side pass the first stage in pieces; 0 = none",
        minimum=0,
        maximum=MOST_PIXELS,
        since="0.2",
    )
    tile_memory: int = field(
        3072, "MiB that the first stage takes for that, beside weights and picture", minimum=16, since="0.2"
    )


def precision_misfits(section: str, asked: Precision, config: object, part: str) -> Iterator[str]:
    """Yield a line if `part`, of this `config`, is trained by `section` in a precision that the config leaves out."""
    named = configs.of(Config, config).precisions
    if named and asked not in named:
        fix = f"set {section}.precision={configs.precision_among(named, asked)}"
        yield f"{section}.precision: {asked}, and {part} runs in {' or '.join(named)} alone; {fix}"


def evaluation_misfits(
    trainer: TrainerSettings, metrics: Mapping[str, object], reads: Collection[str]
) -> Iterator[str]:
    """Yield a line for each metric, by its name in messages, that cannot measure samples while a model is trained
    whose inputs are `reads`, and for settings of that measurement that go with nothing."""
    if trainer.evaluate_every and not metrics:
        yield "trainer.evaluate_every: the recipe has no metrics; name some in `metrics`, or leave it out"
    if trainer.keep_best and not trainer.evaluate_every:
        yield "trainer.keep_best: nothing is measured; set trainer.evaluate_every=1000, say, or leave it out"
    later = "leave it out, and let `evaluate`, the command of ldm-plugin-metrics, measure the trained model"
    for name, config in metrics.items():
        answers = configs.of(configs.MetricConfig, config)
        if answers.subject != "samples":
            yield f"{name} measures {answers.subject}, and a model in training its samples alone; {later}"
        elif answers.needs_pipeline:
            yield f"{name} calls the model, and a model in training is measured by its pictures alone; {later}"
        elif answers.against == "training":
            yield f"{name} searches the training pictures, which takes too long while a model is trained; {later}"
        for key in answers.reads:
            if key not in reads:
                yield (
                    f"{name} reads '{key}', which no conditioner reads, so that samples come without; add such a "
                    "conditioner, or leave the metric out"
                )
