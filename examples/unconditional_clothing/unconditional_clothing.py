"""Train on photographs of clothing, then draw sixteen."""

from __future__ import annotations

import sys

import ldm_core


def main(
    data: str = "../shared/data/clothing",
    stage: str = "runs/first_stage_clothing",
    out: str = "runs/unconditional_clothing",
    *settings: str,
) -> None:
    """Train on `data` and the first stage of the run `stage` into the folder `out`, and sample.

    `settings` are KEY=VALUE of the recipe.
    """
    recipe = ldm_core.Recipe.read("examples/unconditional_clothing/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, first_stage=stage, data=data, out=out)
    for i, image in enumerate(run.pipeline().sample(images=16)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
