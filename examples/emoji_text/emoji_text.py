"""Train on captioned emoji, then draw four of each prompt."""

from __future__ import annotations

import sys

import ldm_core

WEIGHTS = "../shared/data/efficientnet_lite0/tf_efficientnet_lite0.safetensors"


def main(data: str = "../shared/data/emoji_noto", out: str = "runs/emoji_text", *settings: str) -> None:
    """Train on `data` into the folder `out`, and sample; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/emoji_text/recipe.yaml").changed(
        f"stage_objective.perceptual.weights={WEIGHTS}", *settings
    )
    run = ldm_core.train(recipe, data=data, out=out)
    prompts = ["red heart", "grinning face"]
    for i, image in enumerate(run.pipeline().sample(prompts, images=8, guidance=3.0)):
        image.save(f"{out}/pictures/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
