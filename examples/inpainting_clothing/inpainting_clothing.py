"""Train to fill holes in photographs of clothing, then fill one four times."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import ldm_core


def main(
    data: str = "../shared/data/clothing",
    stage: str = "runs/first_stage_clothing_f8",
    out: str = "runs/inpainting_clothing",
    *settings: str,
) -> None:
    """Train on `data` and the first stage of the run `stage` into the folder `out`, and sample.

    `settings` are KEY=VALUE of the recipe.
    """
    recipe = ldm_core.Recipe.read("examples/inpainting_clothing/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, first_stage=stage, data=data, out=out)
    photo = Image.open("examples/inpainting_clothing/photo.jpg").resize((48, 64), Image.Resampling.BICUBIC)
    hole = np.zeros((64, 48), bool)
    hole[16:48, 12:36] = True
    for i, image in enumerate(run.pipeline().sample(inputs={"image": photo, "mask": hole}, images=4)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
