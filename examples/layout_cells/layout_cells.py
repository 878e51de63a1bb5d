"""Train on blood cells with boxes, then draw four pictures of one layout."""

from __future__ import annotations

import json
import sys

import ldm_core

WEIGHTS = "../shared/data/efficientnet_lite0/tf_efficientnet_lite0.safetensors"


def main(data: str = "../shared/data/bccd", out: str = "runs/layout_cells", *settings: str) -> None:
    """Train on `data` into the folder `out`, and sample; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/layout_cells/recipe.yaml").changed(
        f"stage_objective.perceptual.weights={WEIGHTS}", *settings
    )
    run = ldm_core.train(recipe, data=data, out=out)
    with open("examples/layout_cells/boxes.json") as file:
        layout = json.load(file)
    inputs = {"boxes": layout["boxes"], "box_labels": layout["labels"]}
    for i, image in enumerate(run.pipeline().sample(inputs=inputs, images=4)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
