"""Train on blood cells with label maps, then draw four pictures of one map."""

from __future__ import annotations

import sys

from PIL import Image

import ldm_core

WEIGHTS = "../shared/data/efficientnet_lite0/tf_efficientnet_lite0.safetensors"


def main(data: str = "../shared/data/wbc", out: str = "runs/semantic_cells", *settings: str) -> None:
    """Train on `data` into the folder `out`, and sample; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/semantic_cells/recipe.yaml").changed(
        f"stage_objective.perceptual.weights={WEIGHTS}", *settings
    )
    run = ldm_core.train(recipe, data=data, out=out)
    inputs = {"segmentation": Image.open("examples/semantic_cells/map.png")}
    for i, image in enumerate(run.pipeline().sample(inputs=inputs, images=4)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
