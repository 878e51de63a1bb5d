"""Hints for options that do not exist: the names that other programs use."""

from __future__ import annotations

from collections.abc import Mapping

import click

from ldm_core.config.key_hints import ARGUMENTS, counted, setting_meant
from ldm_core.errors import clean

WORDS: Mapping[str, str] = {
    **{f"--{name}": words for name, words in ARGUMENTS.items()},
    "--data": "dataset data_dir data_path data_root train_data_dir train_data dataset_name input_dir images_dir",
    "--cond": "conditioner conditioners conditioning condition",
    "--denoiser": "model network unet arch",
    "--first-stage": "vae autoencoder first_stage_model",
    "--weights": "ckpt checkpoint ckpt_path model model_path resume pretrained_model_name_or_path",
    "--init-from": "ckpt checkpoint ckpt_path weights pretrained resume_from pretrained_model_name_or_path finetune",
    "--images": "n_samples num_images n_images num_samples n_iter count number n",
    "--batch": "batch_size bs",
    "--steps": "ddim_steps num_inference_steps sampling_steps num_steps",
    "--sample-steps": "ddim_steps num_inference_steps sampling_steps inference_steps",
    "--train-steps": "steps max_steps max_train_steps num_steps iterations iters",
    "--guidance": "guidance_scale cfg cfg_scale scale w",
    "--negative": "negative_prompt neg_prompt uncond_prompt",
    "--prompts": "from_file prompt_file prompts_file",
    "--image": "init_img init_image img2img input_image",
    "--precision": "fp16 bf16 half dtype amp",
    "--to": "format output_format target",
    "--image-size": "size resolution",
    "--class": "label class_id class_idx classes class_label y",
    "--sampler": "scheduler solver plms ddim",
    "--json": "format_json as_json",
}
"""Option -> what other programs call it."""


def option_hint(option: str, command: click.Command) -> str:
    """Name what to write in place of the unknown `option` of `command`; an empty string where nothing is near."""
    known = {name for param in command.params for name in param.opts}
    word = option.lstrip("-").lower().replace("-", "_")
    for name, words in WORDS.items():
        if name in known and word in words.split():
            both = name == "--train-steps" and "--sample-steps" in known and word in ("steps", "num_steps")
            return f"; did you mean {name}{' or --sample-steps' if both else ''}?"
    sampling = command.name == "sample"
    takes = command.name in ("ldm-run", "sample") or any(param.name == "settings" for param in command.params)
    target = setting_meant(word, sampling=sampling) if takes else ""
    if not target or (sampling and target.startswith(("trainer", "data"))):
        return ""
    return f"; it is a setting: {clean(target)}=VALUE{counted(word)}"
