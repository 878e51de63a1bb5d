"""Train to enlarge photographs of clothing by 4, then enlarge one of any size."""

from __future__ import annotations

import sys

from PIL import Image

import ldm_core


def main(
    data: str = "../shared/data/clothing",
    out: str = "runs/super_resolution_clothing",
    *settings: str,
) -> None:
    """Train on `data` into the folder `out`, and sample.

    `settings` are KEY=VALUE of the recipe.
    """
    recipe = ldm_core.Recipe.read("examples/super_resolution_clothing/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, data=data, out=out)
    small = Image.open("examples/super_resolution_clothing/small.png")
    (large,) = run.pipeline().sample(inputs={"image": small}, whole=True)
    large.save(f"{out}/pictures/0000.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
