"""Train on photographs of clothing by class, then draw eight of one class."""

from __future__ import annotations

import sys

import ldm_core


def main(
    data: str = "../shared/data/clothing",
    stage: str = "runs/first_stage_clothing",
    out: str = "runs/class_clothing",
    *settings: str,
) -> None:
    """Train on `data` and the first stage of the run `stage` into the folder `out`, and sample.

    `settings` are KEY=VALUE of the recipe.
    """
    recipe = ldm_core.Recipe.read("examples/class_clothing/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, first_stage=stage, data=data, out=out)
    wanted = {"class_label": run.pipeline().class_names["class_label"][0]}  # dress
    for i, image in enumerate(run.pipeline().sample(inputs=wanted, images=8)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
