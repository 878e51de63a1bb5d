"""Train on text and boxes at once, then draw by both, with a scale of guidance for each."""

from __future__ import annotations

import sys

import ldm_core


def main(data: str = "shapes", out: str = "runs/composed_conditions", *settings: str) -> None:
    """Train on `data` into the folder `out`, and sample; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/composed_conditions/recipe.yaml").changed(*settings)
    run = ldm_core.train(recipe, data=data, out=out)
    pipeline = run.pipeline().with_settings({"guidance": {"scales": {"text": 1.0, "layout": 5.0}}})
    layout = {"boxes": [[0.1, 0.1, 0.4, 0.4]], "box_labels": [0]}
    for i, image in enumerate(pipeline.sample("a red circle", inputs=layout, images=4)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
