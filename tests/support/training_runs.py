"""Tiny runs for the tests of the trainers: a recipe that trains in a second or two, and a way to stop it."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ldm_core import hookimpl
from ldm_core.catalog import Catalog
from ldm_core.config import overrides as overrides_
from ldm_core.training import workflow

TINY: dict[str, Any] = {
    "image_size": 16,
    "first_stage": "identity",
    "conditioners": [],
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "attention": [2], "heads": 2,
                 "norm_groups": 4},
    "parameterization": "v",
    "dataset": {"use": "shapes", "scenes": 24, "val_scenes": 8},
    "first_stage_trainer": {
        "steps": 6, "images_per_step": 4, "lr": 1e-3, "log_every": 1, "checkpoint_every": 100, "precision": "fp32",
        "codebook_init_images": 8, "statistics_images": 16, "discriminator_width": 8, "discriminator_layers": 1,
        "adversarial_start": 2,
    },
    "trainer": {"steps": 8, "images_per_step": 4, "lr": 1e-3, "log_every": 1, "checkpoint_every": 100,
                "clip": 1.0, "ema": 0.99, "validate_images": 2},
    "sample": {"steps": 3, "images": 2},
}  # fmt: skip
VQ = {
    "use": "vq_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "mid_attention": False, "norm_groups": 4,
    "codebook_size": 32, "legacy_beta": False,
}  # fmt: skip


def under_zero(stage: int) -> list[str]:
    """The settings of the denoiser's ZeRO stage. After each layer, stage 3 looks for its weights in the layers to come,
    which takes longer than all else in a small network."""
    near = "trainer.deepspeed={zero_optimization: {stage3_max_reuse_distance: 0}}"
    return [f"trainer.zero={stage}", *([near] if stage == 3 else [])]


class Watch:
    """An observer that keeps losses and messages, and can ask the run to stop at a step."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop = stop
        self.losses: dict[str, list[float]] = {}
        self.messages: list[str] = []
        self.ends: list[tuple[str, str]] = []
        self.steps: list[tuple[str, int]] = []
        self.pictures: set[str] = set()

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        self.steps.append((stage, step))
        if "loss" in logs:
            self.losses.setdefault(stage, []).append(logs["loss"])
        if self.stop == (stage, step):
            os.kill(os.getpid(), signal.SIGTERM)

    @hookimpl
    def ldm_message(self, text: str, level: str) -> None:
        self.messages.append(text)

    @hookimpl
    def ldm_images(self, stage: str, step: int, name: str, url: str) -> None:
        self.pictures.add(name)

    @hookimpl
    def ldm_stage_end(self, stage: str, status: str) -> None:
        self.ends.append((stage, status))


def go(
    out: Path | str, *overrides: str, watch: Watch | None = None, stages: tuple[str, ...] | None = None, **changes: Any
) -> Watch:
    """Run the tiny recipe with `changes` of top-level keys and `overrides`, in `out`."""
    catalog = Catalog.discover()
    watch = watch or Watch()
    catalog.manager.register(watch)
    plain = copy.deepcopy({**TINY, **changes})  # overrides write into it
    overrides_.apply_overrides(plain, overrides, ["first_stage", "denoiser", "dataset", "conditioners"])
    recipe, info = workflow.prepare(plain, catalog)
    workflow.run(recipe, info, catalog, str(out), stages=stages or workflow.STAGES)
    return watch


def weights(out: Path | str, name: str = "model.safetensors") -> dict[str, Tensor]:
    """The tensors of a run's file."""
    return load_file(str(Path(out) / name))
