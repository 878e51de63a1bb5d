"""Train on Fashion-MNIST, then draw a picture of each class."""

from __future__ import annotations

import sys

import ldm_core


def main(data: str = "../shared/data/fashion_mnist", out: str = "runs/class_fashion", *settings: str) -> None:
    """Train on `data` into the folder `out`, and sample; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/class_fashion/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, data=data, out=out)
    pipeline = run.pipeline()
    classes = [{"class_label": name} for name in pipeline.class_names["class_label"]]
    for i, image in enumerate(pipeline.sample(inputs=classes, guidance=2.0)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
