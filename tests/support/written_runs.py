"""Folders of runs that nobody trained: a recipe, measurements, headers of weights and pictures, in milliseconds."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save
from training_runs import TINY

from ldm_core import storage
from ldm_core.catalog import VERSION, Catalog
from ldm_core.config import documents
from ldm_core.data import images
from ldm_core.recipe import artifacts
from ldm_core.recipe.resolve import resolve

SIZE = 16
PROMPTS = ("a red circle", "a blue square", "a star")


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """A picture of noise, uint8 (3, h, w)."""
    return np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8)


def rows(steps: int = 200, every: int = 10) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl as the trainers write them."""
    found: list[dict[str, Any]] = [
        {"stage": "first_stage", "step": 5, "loss": 0.5, "images_per_second": 50.0, "time": 1000.0},
        {"stage": "first_stage_evaluation", "step": 0, "psnr": 20.5, "ssim": 0.75, "evaluated_images": 8.0,
         "held_out": 1.0, "time": 1001.0},
    ]  # fmt: skip
    for step in range(every, steps + 1, every):
        found.append(
            {"stage": "denoiser", "step": step, "loss": 2.0 * step**-0.3, "lr": 1e-3, "images_per_second": 100.0,
             "data_wait": 0.01, "peak_memory_mib": 900.0, "time": 1010.0 + step}
        )  # fmt: skip
    bins = {f"val_loss_t{i}": 1.0 - i / 20 for i in range(10)}
    found.append({"stage": "denoiser_validation", "step": steps, "val_loss": 0.4, **bins, "time": 1020.0 + steps})
    return found


def write(
    url: str,
    *,
    recipe: Mapping[str, Any] | None = None,
    measured: Sequence[Mapping[str, Any]] | None = None,
    prompts: Sequence[str] = PROMPTS,
    previews: Sequence[int] = (100, 200),
    header: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> str:
    """Write a finished run into the folder `url` and return it."""
    plain = dict(recipe) if recipe is not None else resolved()
    storage.make_folder(url)

    def put(name: str, data: bytes | str) -> None:
        storage.atomic_write(storage.join(url, name), data)

    put("recipe.yaml", documents.dump_yaml(plain))
    put("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in (rows() if measured is None else measured)))
    more = {
        "versions": {"ldm-core": VERSION},
        "steps": 200,
        "class_names": {"class_label": ["cat", "dog"]},
        **(header or {}),
    }
    put("first_stage.safetensors", weights("first_stage", "identity", more))
    put("model.safetensors", weights("model", "unet", more))
    for number, prompt in enumerate(prompts):
        words = {"prompt": prompt, "seed": str(seed + number), "sampler": "ddim", "steps": "3", "software": "ldm-core"}
        put(f"samples/{number:04d}.png", images.png_bytes(picture(seed + number), words))
    put("samples.png", images.png_bytes(images.grid([picture(n) for n in range(len(prompts))], list(prompts))))
    pairs = [picture(n // 2) // (1 + n % 2) for n in range(6)]
    put("reconstructions.png", images.png_bytes(images.grid(pairs, columns=8, cell=96)))
    for step in previews:
        put(f"previews/samples-{step:08d}.png", images.png_bytes(images.grid([picture(step + n) for n in range(2)])))
    return url


def weights(kind: str, use: str, more: Mapping[str, Any]) -> bytes:
    """A file of weights with a header of ours and one tensor."""
    extra = {k: v for k, v in more.items() if k != "versions"}
    return save(
        {"denoiser.weight": np.zeros((10, 20), np.float32)},
        artifacts.metadata(kind, use, {}, more["versions"], identity="0" * 64, **extra),
    )


def resolved(**changes: Any) -> dict[str, Any]:
    """The tiny recipe, complete, with `changes` of its keys."""
    return resolve(copy.deepcopy({**TINY, **changes}), Catalog.discover()).public()
