"""Guide the unconditional run of examples/unconditional_clothing by a picture that it was never trained to read."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import ldm_core


def main(run: str = "runs/unconditional_clothing", out: str = "runs/unconditional_clothing/guided") -> None:
    """Sample by the model in the folder `run` into the folder `out`: near a small picture, and around a hole."""
    pipeline = ldm_core.load(run)
    near = pipeline.with_settings({"guides": {"low_resolution_target": {"factor": 4}}})
    small = np.asarray(Image.open("examples/image_guiding/small.png")).transpose(2, 0, 1)  # uint8 (3, 16, 12)
    for i, image in enumerate(near.sample(inputs={"image": small}, images=4)):
        image.save(f"{out}/near-{i:04}.png")

    repaint = {"use": "repaint", "resamples": 5, "jump": 5}
    filled = pipeline.with_settings({"guides": {"blend": {}}, "sampler": repaint})
    photo = Image.open("examples/inpainting_clothing/photo.jpg").resize((48, 64), Image.Resampling.BICUBIC)
    hole = np.zeros((64, 48), bool)
    hole[16:48, 12:36] = True
    for i, image in enumerate(filled.sample(inputs={"image": photo, "mask": hole}, images=4)):
        image.save(f"{out}/filled-{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
