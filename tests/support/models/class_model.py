"""A small model of classes that tests train by the command line and then sample with parts added to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldm_core.sampling.pipeline import Pipeline

WANTED = [{"class_label": 1}, {"class_label": 4}]
"""The conditions of the two images of :func:`drawn`."""


def recipe(*, attention: list[int], **trainer: Any) -> dict[str, Any]:
    """The recipe of a U-Net on pixels, with attention at these levels and these settings of the trainer."""
    return {
        "image_size": 16,
        "denoiser": {
            "use": "unet",
            "channels": 16,
            "channel_mult": [1, 2],
            "res_blocks": 1,
            "attention": attention,
            "heads": 2,
            "norm_groups": 8,
        },
        "conditioners": [{"use": "class_label", "width": 8, "dropout": 0.2}],
        "dataset": {"use": "shapes", "scenes": 12, "val_scenes": 4},
        "trainer": {"images_per_step": 4, "log_every": 1, "ema": 0.0, **trainer},
        "sample": {"steps": 2, "images": 2},
    }


def drawn(pipeline: Pipeline, **more: Any) -> np.ndarray:
    """Latents before any rounding to pixels: equal ones are equal to the bit."""
    found = pipeline.sample(inputs=WANTED, steps=5, seed=5, **more)
    return np.stack([np.asarray(each.latents) for each in found])
