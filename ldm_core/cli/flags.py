"""The table of keys and flags, by which the library's messages become those of the command line.

The library speaks Python. In its errors, warnings and notes, what a user can set stands in backquotes: by its key in
the recipe (``trainer.init_from``), by the name of the argument in Python (``out``, ``strict``), or as ``inputs.KEY``
for what a conditioner reads; ``=VALUE`` may follow. A name of :data:`COMMANDS` stands for a whole command::

    raise DataError("this model needs a caption (key 'caption', read by conditioner 'text'): give `inputs.caption`")
    raise CheckpointError(f"`first_stage`: {where} holds no first stage, but {what}")
    raise ConfigError(f"{out} holds another run; give another `out`, or `recipe={url}`")

The command line prints ``give --prompt TEXT``, ``--first-stage: ...`` and ``another --out, or --recipe URL``, where the
command that runs has such an option; all else in backquotes stays as it is. :func:`in_flags` is called where errors,
warnings and a run's notes are printed, so that nobody else has to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

from ldm_core.config.key_hints import ARGUMENTS, counted, setting_meant
from ldm_core.errors import clean

KEYS: Mapping[str, str] = {
    "conditioners": "--cond",
    "dataset": "--data",
    "codec": "--from",
    "trainer.init_from": "--init-from",
    "trainer.steps": "--train-steps",
    "sample.steps": "--sample-steps",
    "sample.prompts": "--prompt",
}
"""Key of the library -> flag, if the flag is not the key itself with dashes (``first_stage``: ``--first-stage``)."""
INPUTS: Mapping[str, str] = {
    "caption": "--prompt TEXT",
    "boxes": "--boxes FILE",
    "box_labels": "--boxes FILE",
    "segmentation": "--segmentation FILE",
    "class_label": "--class NAME",
    "image": "--image PICTURE",
    "mask": "--mask FILE.png",
    "embedding": "--input embedding=@FILE.npy",
}
"""Key read by a conditioner -> its option; any other one is given by ``--input KEY=...``."""
_IN_TRAINING: Mapping[str, str] = {"image": "--input image=@PICTURE", "mask": "--input mask=@PICTURE"}
"""The same for commands without options of their own for these keys."""
COMMANDS: Mapping[str, str] = {
    "workflow.run": "ldm-run",
    "Catalog.broken": "ldm-run plugins",
    "recipe.shipped": "ldm-run show recipes",
    "weights.describe": "ldm-run inspect",
    "weights.convert": "ldm-run convert",
    "Pipeline.reconstruct": "ldm-run reconstruct",
}
"""Name in Python -> its command."""
LINES: Mapping[str, str] = {"weights.convert": "ldm-run convert {} --to ldm"}
"""Name in Python with ``=ARGUMENTS`` -> the line of a shell with these arguments."""

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
    "--size": "image_size resolution height width h w",
    "--sampler": "scheduler solver plms ddim",
    "--json": "format_json as_json",
}
"""Option -> its names in other programs."""

_KEY = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?:=([^`]*))?`")
_known: frozenset[str] = frozenset()


def speak_for(command: click.Command) -> None:
    """Take `command` as the running one: messages name its flags from here on."""
    global _known
    _known = frozenset(name for param in command.params for name in param.opts)


def in_flags(text: str) -> str:
    """Replace the keys in backquotes in the library's `text` by flags of the running command."""
    return _KEY.sub(_in_flags, text)


def input_flag(key: str, *, sampling: bool = False) -> str:
    """Write the option of the input `key`, of the running command or of the one that samples: ``--prompt TEXT``."""
    if key in _IN_TRAINING and not sampling and "--mask" not in _known:
        return _IN_TRAINING[key]
    return INPUTS.get(key, f"--input {key}=...")


def _in_flags(found: re.Match[str]) -> str:
    key, value = found[1], found[2]
    if key in COMMANDS and value is None:
        return f"`{COMMANDS[key]}`"
    if key in LINES and value is not None:
        return f"`{LINES[key].format(value)}`"
    name = key.removeprefix("inputs.")
    flag = input_flag(name) if name != key else KEYS.get(key, "--" + key.replace("_", "-"))
    if flag.split()[0] not in _known:
        return found[0]
    if value is None or name != key:
        return flag
    import shlex

    return f"{flag} {shlex.quote(value)}"


def option_hint(option: str, command: click.Command) -> str:
    """Name the likely meaning of the unknown `option` of `command`; an empty string if nothing is near."""
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
