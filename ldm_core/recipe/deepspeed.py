"""DeepSpeed's configuration from a trainer's settings; raw settings are merged in, contradictions named. Torch-free.

The recipe's own settings (batch, optimizer, precision, stage, offload) cannot be said twice: an equal raw value is
dropped, so a file for another launcher can be handed over as it is, and a different one is an error naming the recipe's
own key. ``"auto"``, other tools' word for "fill this in", is dropped too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import ConfigError, LDMError, clean, quoted, suggest
from ldm_core.recipe.settings import EngineSettings

BUCKET = 50_000_000
"""Elements of a reduction bucket: DeepSpeed's own 5e8 would be 2 GB of fp32, whatever the size of the model."""

_TOP_KEYS = """
activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comms_logger communication_data_type comet compile
csv_monitor data_efficiency data_types dataloader_drop_last datastates_ckpt disable_allgather disable_python_gc
dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps gradient_allreduce_op gradient_clipping
gradient_predivide_factor hybrid_engine log_level managed_gradient_accumulation memory_breakdown optimizer pipeline
prescale_gradients scheduler seq_parallel_communication_data_type sequence_parallel_size steps_per_print tensorboard
tensor_parallel timers torch_autocast train_batch_size train_micro_batch_size_per_gpu
use_data_before_expert_parallelism vocabulary_size wall_clock_breakdown wandb weight_quantization
zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
"""
TOP_KEYS = frozenset(_TOP_KEYS.split())
"""DeepSpeed's settings, as 0.19.8 reads them; a test compares them with the installed one's."""

_ZERO_KEYS = """
allgather_bucket_size allgather_partitions compute_grad_norm contiguous_gradients cpu_offload cpu_offload_param
cpu_offload_use_pin_memory elastic_checkpoint enable_sanity_checks ignore_unused_parameters leaf_module legacy_stage1
load_from_fp32_weights log_trace_cache_warnings memory_efficient_linear offload_optimizer offload_param
override_module_apply overlap_comm parameter_alignment pipeline_loading_checkpoint reduce_bucket_size reduce_scatter
round_robin_gradients save_muon_momentum_buffer_in_memory stage stage3_allgather_sequential
stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save stage3_max_live_parameters
stage3_max_reuse_distance stage3_model_persistence_threshold stage3_module_granularity_threshold
stage3_param_persistence_threshold stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size
use_multi_rank_bucket_allreduce zenflow zero_hpz_partition_size zero_quantized_gradients
zero_quantized_nontrainable_weights zero_quantized_weights
"""
ZERO_KEYS = frozenset(_ZERO_KEYS.split())
"""The same of ``zero_optimization``."""

_PRECISION = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16"}
_SCALE_KEYS = ("loss_scale", "initial_scale_power", "loss_scale_window", "min_loss_scale")


def engine_config(settings: EngineSettings, size: int, section: str, *, trained: int = BUCKET) -> dict[str, Any]:
    """DeepSpeed's configuration on `size` processes for a part of `trained` parameters.

    Raises :class:`ConfigError`, a line per contradiction, if raw settings and the recipe's own disagree.
    """
    share = size * settings.accumulate
    if settings.images_per_step % share:
        raise ConfigError(
            f"{section}.images_per_step: {settings.images_per_step} is not divisible by {size} process(es) x "
            f"accumulate {settings.accumulate}; use a multiple of {share}"
        )
    raw = raw_settings(settings, section)
    problems = list(_contradictions(raw, settings, section, size))
    if problems:
        raise ConfigError(problems)
    own = {
        "train_batch_size": settings.images_per_step,
        "train_micro_batch_size_per_gpu": settings.images_per_step // share,
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.clip,
        "zero_allow_untested_optimizer": True,
        # with True, DeepSpeed would compile its own Adam for the CPU at start
        "zero_force_ds_cpu_optimizer": False,
    }
    zero: dict[str, Any] = {"stage": settings.zero}
    if settings.zero:
        bucket = min(BUCKET, trained + trained % 2)  # even, as DeepSpeed's alignment wants it
        zero.update(reduce_bucket_size=bucket, allgather_bucket_size=bucket)
    zero = _merged(zero, {k: v for k, v in raw.pop("zero_optimization", {}).items() if k != "stage"})
    if settings.offload != "none":
        zero["offload_optimizer"] = {**zero.get("offload_optimizer", {}), "device": "cpu"}
    if settings.offload == "all":
        zero["offload_param"] = {**zero.get("offload_param", {}), "device": "cpu"}
    quiet = {"steps_per_print": 1 << 40, "wall_clock_breakdown": False}
    beside = {k: v for k, v in raw.items() if k not in own and k not in ("optimizer", "scheduler", *_PRECISION)}
    return {**own, "zero_optimization": zero, **quiet, **beside}


def raw_settings(settings: EngineSettings, section: str) -> dict[str, Any]:
    """The raw settings of the file and, over them, of the recipe, without ``"auto"`` values.

    Raises :class:`ConfigError` if the file does not read as a JSON object or a key is none of DeepSpeed's.
    """
    given: dict[str, Any] = {}
    if settings.deepspeed_file:
        given = _read(settings.deepspeed_file, f"{section}.deepspeed_file")
    merged = _merged(given, settings.deepspeed)
    problems = list(_unknown(merged, f"{section}.deepspeed"))
    if problems:
        raise ConfigError(problems)
    return _without_auto(merged)


def loss_scale_settings(settings: EngineSettings, section: str) -> dict[str, float]:
    """The raw settings of fp16's loss scale, in DeepSpeed's words (``loss_scale``: 0 = adapts itself)."""
    return {k: float(v) for k, v in raw_settings(settings, section).get("fp16", {}).items() if k in _SCALE_KEYS}


def misfits(settings: EngineSettings, section: str) -> Iterator[str]:
    """One line for each impossible setting, found before anything is started and on any number of processes."""
    if settings.offload == "optimizer" and settings.zero == 0:
        yield (
            f"{section}.offload: the optimizer can be kept in host memory where ZeRO divides it; set "
            f"{section}.zero=1 (or 2, 3), or {section}.offload=none"
        )
    if settings.offload == "all" and settings.zero != 3:
        yield (
            f"{section}.offload: parameters can be kept in host memory under ZeRO 3 alone; set {section}.zero=3, or "
            f"{section}.offload=optimizer"
        )
    try:
        raw = raw_settings(settings, section)
    except ConfigError as error:
        yield from error.problems
        return
    yield from _contradictions(raw, settings, section, None)


def _read(url: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(storage.read_text(url), "it")
    except ConfigError as error:
        raise ConfigError(f"{where}: {url} is no JSON ({error}); give a JSON object of DeepSpeed's settings") from None
    except LDMError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {url} holds a {type(value).__name__}, expected a JSON object")
    return value


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {k: _merged(v, {}) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in over.items():
        below = out.get(key)
        if isinstance(value, Mapping):
            out[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            out[key] = value
    return out


def _without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without ``"auto"`` and without mappings of nothing else."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = _without_auto(value)
            if inner or not value:
                out[key] = inner
        elif value != "auto":
            out[key] = value
    return out


def _unknown(raw: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in raw:
        if key not in TOP_KEYS:
            yield f"{path}.{clean(key, 60)}: DeepSpeed has no such setting{suggest(key, TOP_KEYS)}"
    zero = raw.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        yield f"{path}.zero_optimization: expected a mapping, got {quoted(zero)}"
        return
    for key in zero:
        if key not in ZERO_KEYS:
            yield f"{path}.zero_optimization.{clean(key, 60)}: DeepSpeed has no such setting{suggest(key, ZERO_KEYS)}"


def _contradictions(raw: Mapping[str, Any], settings: EngineSettings, section: str, size: int | None) -> Iterator[str]:  # noqa: C901
    """One line for each raw value in contradiction to the recipe; `size` processes, None = not known yet."""
    path = f"{section}.deepspeed"
    micro = None if size is None else settings.images_per_step // (size * settings.accumulate)
    own: list[tuple[str, Any, str]] = [
        ("train_batch_size", settings.images_per_step, "images_per_step"),
        ("train_micro_batch_size_per_gpu", micro, "images_per_step and accumulate"),
        ("gradient_accumulation_steps", settings.accumulate, "accumulate"),
        ("gradient_clipping", settings.clip, "clip"),
    ]
    for key, value, name in own:
        if key in raw and value is not None and raw[key] != value:
            yield f"{path}.{key}: {quoted(raw[key])} there, the recipe has {value}; set {section}.{name} instead"
    yield from _optimizer(raw, settings, section)
    for key, precision in _PRECISION.items():
        if key in raw:
            yield from _precision(key, raw[key], precision, settings, section)
    for key, why in (
        ("torch_autocast", f"the networks run under the trainer's own autocast; set {section}.precision instead"),
        ("managed_gradient_accumulation", f"the trainer counts micro-batches; set {section}.accumulate instead"),
    ):
        if key in raw:
            yield f"{path}.{key}: {why}"
    if raw.get("zero_force_ds_cpu_optimizer") is True or raw.get("zero_allow_untested_optimizer") is False:
        yield f"{path}: the optimizer is torch's AdamW, at any stage and offload; leave DeepSpeed's own out"
    zero = raw.get("zero_optimization", {})
    if "stage" in zero and zero["stage"] != settings.zero:
        yield (
            f"{path}.zero_optimization.stage: {quoted(zero['stage'])} there, the recipe has {settings.zero}; set "
            f"{section}.zero instead"
        )
    for key in ("cpu_offload", "cpu_offload_param"):
        if zero.get(key):
            yield f"{path}.zero_optimization.{key}: set {section}.offload instead"
    for key, allowed, value in (
        ("offload_optimizer", ("optimizer", "all"), "optimizer"),
        ("offload_param", ("all",), "all"),
    ):
        given = zero.get(key)
        device = given.get("device", "cpu") if isinstance(given, Mapping) else given
        if device in (None, "none"):
            continue
        if device != "cpu":
            yield f"{path}.zero_optimization.{key}.device: {quoted(device)} is not supported; use cpu"
        elif settings.offload not in allowed:
            yield f"{path}.zero_optimization.{key}: set {section}.offload={value} instead"


def _optimizer(raw: Mapping[str, Any], settings: EngineSettings, section: str) -> Iterator[str]:
    path = f"{section}.deepspeed.optimizer"
    optimizer = raw.get("optimizer", {})
    if "scheduler" in raw:
        yield f"{section}.deepspeed.scheduler: set {section}.schedule and {section}.warmup_steps instead"
    if not isinstance(optimizer, Mapping) or optimizer.get("type", "AdamW") not in ("Adam", "AdamW"):
        kind = optimizer.get("type") if isinstance(optimizer, Mapping) else optimizer
        yield f"{path}.type: {quoted(kind)} there, the trainer's is AdamW; leave it out"
        return
    own: dict[str, Any] = {
        "lr": settings.lr,
        "betas": list(settings.betas),
        "weight_decay": settings.weight_decay,
        "eps": 1e-8,
        "adam_w_mode": True,
        "bias_correction": True,
        "amsgrad": False,
    }
    for key, value in optimizer.get("params", {}).items():
        value = list(value) if isinstance(value, (list, tuple)) else value
        if key == "torch_adam":
            continue  # the choice of DeepSpeed's builds: it is torch's in any case
        if key not in own:
            yield f"{path}.params.{key}: the trainer's AdamW does not take it{suggest(key, own)}"
        elif value != own[key]:
            hint = f"set {section}.{key} instead" if key in ("lr", "betas", "weight_decay") else "leave it out"
            yield f"{path}.params.{key}: {quoted(value)} there, the recipe has {own[key]!r}; {hint}"


def _precision(key: str, value: Any, precision: str, settings: EngineSettings, section: str) -> Iterator[str]:
    path = f"{section}.deepspeed.{key}"
    if not isinstance(value, Mapping):
        yield f"{path}: expected a mapping such as {{enabled: true}}, got {quoted(value)}"
        return
    on = value.get("enabled")
    if on is not None and bool(on) != (settings.precision == precision):
        yield (
            f"{path}.enabled: {str(bool(on)).lower()} there, the recipe has precision {settings.precision}; set "
            f"{section}.precision instead"
        )
    elif settings.precision == precision:
        known = ("enabled", *_SCALE_KEYS) if precision == "fp16" else ("enabled",)
        for name in value:
            if name not in known:
                yield f"{path}.{name}: the trainer's own {precision} does not take it (it takes: {', '.join(known)})"
