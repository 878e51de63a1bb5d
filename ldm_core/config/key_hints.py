"""Hints for unknown keys: the names used by other programs, and near misses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import attrs

from ldm_core.errors import clean, suggest

_WORDS: Mapping[str, str] = {
    "trainer.lr": "lr learning_rate base_lr base_learning_rate max_lr step_size",
    "trainer.images_per_step": "batch_size batch bs train_batch_size global_batch_size total_batch_size batchsize "
    "images_per_batch minibatch mini_batch_size",
    "trainer.steps": "epochs epoch max_epochs num_epochs num_train_epochs n_epochs steps max_steps train_steps "
    "num_steps num_train_steps max_train_steps total_steps iterations iters max_iters niter kimg training_steps",
    "trainer.accumulate": "gradient_accumulation_steps grad_accum accumulate_grad_batches gradient_accumulation",
    "trainer.warmup_steps": "warmup lr_warmup_steps num_warmup_steps",
    "trainer.schedule": "lr_scheduler lr_schedule scheduler_lr",
    "trainer.weight_decay": "wd adam_weight_decay",
    "trainer.betas": "adam_betas beta1 beta2 adam_beta1 adam_beta2",
    "trainer.clip": "grad_clip gradient_clip gradient_clip_val max_grad_norm clip_grad clip_grad_norm",
    "trainer.ema": "ema_decay use_ema ema_rate",
    "trainer.precision": "mixed_precision fp16 bf16 use_fp16 amp dtype half",
    "trainer.checkpoint_every": "checkpointing_steps save_every save_interval save_steps ckpt_every",
    "trainer.keep_checkpoints": "checkpoints_total_limit save_total_limit save_top_k",
    "trainer.log_every": "log_interval logging_steps log_every_n_steps",
    "trainer.validate_every": "validation_steps val_check_interval eval_every eval_steps val_every",
    "trainer.init_from": "pretrained finetune_from ckpt checkpoint init_ckpt ckpt_path resume_from_checkpoint resume",
    "trainer.activation_checkpointing": "gradient_checkpointing use_checkpoint grad_checkpointing",
    "trainer.time_limit": "max_time",
    "data.workers": "num_workers dataloader_num_workers loader_workers n_workers",
    "data.flip": "random_flip hflip horizontal_flip",
    "dataset.url": "url data_dir data_path data_root dataset_path dataset_dir dataset_name train_data_dir root img_dir",
    "image_size": "resolution size img_size img_res image_resolution width height h w",
    "first_stage": "vae autoencoder ae first_stage_model codec_model",
    "denoiser": "model unet network net arch backbone diffusion_model",
    "denoiser.channels": "channels model_channels base_channels ch dim hidden_size",
    "denoiser.channel_mult": "channel_mult ch_mult channel_multipliers dim_mults",
    "denoiser.res_blocks": "res_blocks num_res_blocks layers_per_block",
    "denoiser.attention": "attention_resolutions attn_resolutions",
    "first_stage.codebook_size": "codebook_size n_embed num_embeddings",
    "conditioners": "cond conditioning conditioner condition cond_stage",
    "adapters": "adapter lora loras lora_weights peft",
    "sampler.eta": "eta ddim_eta",
    "guidance.scale": "guidance_scale cfg cfg_scale unconditional_guidance_scale",
    "sample.prompts": "prompt prompts validation_prompt",
    "sample.steps": "sample_steps sampling_steps num_inference_steps inference_steps ddim_steps",
    "sample.images": "n_samples num_images n_images num_samples",
    "sample.batch": "sample_batch eval_batch_size",
    "seed": "random_seed manual_seed global_seed rng_seed",
    "observers": "logger loggers callbacks report_to",
}
_WORDS_OF_SAMPLING: Mapping[str, str] = {
    "sample.steps": "steps num_steps",
    "sample.batch": "batch_size batch bs",
    "guidance.scale": "scale guidance_weight w",
}
ARGUMENTS: Mapping[str, str] = {
    "out": "output output_dir outdir out_dir save_dir logdir log_dir results workdir work_dir",
    "recipe": "config cfg_file config_file yaml base",
    "nproc": "gpus num_gpus devices n_gpus nproc_per_node num_processes world_size",
}
"""Arguments of a run beside its recipe -> their names in other programs."""
_CORE = ("trainer.", "sample.", "data.", "guidance.", "image_size", "seed")
"""Settings often sought in a wrong section or part."""
_COUNTED = ("epochs", "epoch", "max_epochs", "num_epochs", "num_train_epochs", "n_epochs")


_SECTION_KEYS: dict[str, frozenset[str]] = {}


def declare_sections(sections: Mapping[str, type], parts: Mapping[str, Iterable[str]]) -> None:
    """Take the names of the core's settings, section by section: a key of another section is then told.

    `parts`: settings of parts that are known beforehand.
    """
    _SECTION_KEYS.update({name: frozenset(f.name for f in attrs.fields(cls)) for name, cls in sections.items()})
    _SECTION_KEYS.update({name: frozenset(words) for name, words in parts.items()})


@cache
def _by_word(sampling: bool) -> dict[str, str]:
    tables = (_WORDS, _WORDS_OF_SAMPLING) if sampling else (_WORDS,)
    return {word: target for table in tables for target, words in table.items() for word in words.split()}


def key_hint(path: str, key: str, known: Iterable[str], *, sampling: bool = False) -> str:
    """``"; did you mean 'trainer.lr'?"`` for the unknown `key` of the section or part `path` ("" = the recipe itself),
    with the keys `known`; an empty string if nothing is near."""
    known = list(known)
    if split := split_key(key):
        return f"; a space is missing after the colon: '{split}'"
    word = key[:100].lower().replace("-", "_")
    target = _by_word(sampling).get(word, "")
    own = target.rpartition(".")[2]
    # the same setting of the key's own section: first_stage_trainer.batch_size
    if path and own in known and own != key and target.startswith(("trainer.", f"{path}.")):
        target = own
    elif path and (near := suggest(key, known, alike=0.8 if target else 0.6)):
        return near  # a slip of the pen; a name that other programs have is one only if it is all but the key
    elif target == (f"{path}.{key}" if path else key) or (path and not target.startswith(_CORE)):
        target = ""
    target = target or _elsewhere(path, word)
    if not target:
        return _argument(path, word) or suggest(key, known)
    return f"; did you mean '{target}'?{counted(word)}"


_NO_SPACE = re.compile(r"([A-Za-z_][\w.-]*):(?!//)(\S.*)", re.DOTALL)


def split_key(key: str) -> str:
    """``use: cfg`` of a key ``use:cfg``, as YAML reads a setting without a space after its colon; else empty."""
    found = _NO_SPACE.fullmatch(key)
    return clean(": ".join(found.groups()), 100) if found else ""


def without_space(value: Any) -> str:
    """The first such key without a value in `value`, a setting as YAML read it, as :func:`split_key` gives it."""
    if isinstance(value, dict):
        own = (split_key(key) for key, each in value.items() if each is None and isinstance(key, str))
        return next(filter(None, (*own, *map(without_space, value.values()))), "")
    return next(filter(None, map(without_space, value)), "") if isinstance(value, list) else ""


def _elsewhere(path: str, word: str) -> str:
    """The key with its section of such a setting, if it belongs to another section."""
    for name in ("trainer", "sample", "data", "first_stage_trainer", "stage_objective", "storage"):
        if name != path and word in _SECTION_KEYS.get(name, ()):
            return f"{name}.{word}"
    return ""


def _argument(path: str, word: str) -> str:
    """The argument of a run with this meaning, for words that are no setting."""
    for name, words in ARGUMENTS.items():
        if not path and word in (name, *words.split()):
            return f"; did you mean `{name}`?"
    return ""


def counted(word: str) -> str:
    """A note on epochs as steps if `word` counts in epochs; an empty string else."""
    return " (steps are counted: epochs x images / images_per_step)" if word in _COUNTED else ""


def setting_meant(word: str, *, sampling: bool = False) -> str:
    """The setting of the core, such as ``trainer.lr``, meant by `word`; an empty string if there is none."""
    return _by_word(sampling).get(word, "") or _elsewhere("", word)
