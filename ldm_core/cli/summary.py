"""The report at the end of a run: in lines, and as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_core import storage
from ldm_core.cli.flags import input_flag
from ldm_core.cli.progress import duration, pace_text
from ldm_core.contracts import SIZE_KEYS
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.folder.own_files import BAD


def document(result: Any, recipe: Recipe) -> dict[str, Any]:
    """Make the JSON document of a :class:`~ldm_core.training.workflow.RunResult`."""
    return {
        "status": result.status,
        "out": result.out,
        "model": result.model or None,
        "samples": result.samples or None,
        "first_stage": dict(result.first_stage or {}),
        "trained": {stage: dict(numbers) for stage, numbers in result.trained.items()},
        "bad_examples": result.bad_examples,
        "files": list(result.files),
        "seconds": dict(result.seconds or {}),
        "started": dict(result.started),
        "recipe": {"name": recipe.name, "identity": recipe.identity()},
    }


def lines(result: Any, recipe: Recipe) -> list[str]:
    """Write the report for a reader: files, quality, time, and the commands to go on with."""
    said = [f"run folder: {result.out}" + (f" ({', '.join(result.files)})" if result.files else "")]
    numbers = dict(result.trained)
    first = "; ".join(
        filter(None, (quality(result.first_stage or {}), _training(numbers.pop("first_stage", {}), loss=False)))
    )
    if first:
        said.append(f"first stage: {first}")
    said += [f"{stage.replace('_', ' ')}: {_training(measured)}" for stage, measured in numbers.items()]
    if result.bad_examples:
        said.append(f"unreadable examples: {result.bad_examples}, listed in {storage.join(result.out, BAD)}")
    if result.model:
        said.append(f"model: {result.model}")
    if result.samples:
        said.append(f"samples: {result.samples}")
    if result.seconds:
        said.append("time: " + ", ".join(f"{k.replace('_', ' ')} {duration(v)}" for k, v in result.seconds.items()))
    if result.model:
        said.append(f"more images: {sample_command(result.out, recipe)}")
    if result.model or first:
        said.append(f"your own pictures through the first stage: ldm-run reconstruct {result.out} PICTURE")
    return said


def quality(numbers: Mapping[str, float]) -> str:
    """Write ``PSNR 31.25 dB, SSIM 0.91 on 256 held-out images``; any other number under its own name."""
    said = [f"PSNR {numbers['psnr']:.2f} dB"] if "psnr" in numbers else []
    said += [f"SSIM {numbers['ssim']:.3f}"] if "ssim" in numbers else []
    known = ("psnr", "ssim", "evaluated_images", "held_out")
    said += [f"{k.replace('_', ' ')} {v:.4g}" for k, v in numbers.items() if k not in known]
    which = "held-out" if numbers.get("held_out", 1) else "training"
    where = f" on {numbers['evaluated_images']:.0f} {which} images" if "evaluated_images" in numbers else ""
    return ", ".join(said) + where


def _training(numbers: Mapping[str, float], *, loss: bool = True) -> str:
    """Write ``loss 0.12, validation 0.13; 4000 steps at 412 images/s, data wait 3%, peak 1.2 GiB``."""
    worth = []
    if loss and "loss" in numbers:
        worth.append(f"loss {numbers['loss']:.4g}")
        if "validation_loss" in numbers:
            worth.append(f"validation {numbers['validation_loss']:.4g}")
    steps = f"{numbers['step']:.0f} steps" if "step" in numbers else ""
    pace = pace_text(numbers)
    return "; ".join(filter(None, (", ".join(worth), f"{steps} at {pace}" if steps and pace else steps)))


def sample_command(out: str, recipe: Recipe) -> str:
    """Write the command that samples this model, with an option for each key that a conditioner reads."""
    keys = (key for part in recipe.conditioners for key in part.config.reads if key not in SIZE_KEYS)
    flags = dict.fromkeys(input_flag(key, sampling=True) for key in keys)
    return " ".join(["ldm-run sample", out, *flags])
