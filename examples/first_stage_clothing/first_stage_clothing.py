"""Train the first stage of all examples on clothing, and say how well it does on held-out photographs."""

from __future__ import annotations

import sys

import ldm_core

WEIGHTS = "../shared/data/efficientnet_lite0/tf_efficientnet_lite0.safetensors"


def main(data: str = "../shared/data/clothing", out: str = "runs/first_stage_clothing", *settings: str) -> None:
    """Train on `data` into the folder `out`; `settings` are KEY=VALUE of the recipe."""
    recipe = ldm_core.Recipe.read("examples/first_stage_clothing/recipe.yaml")
    recipe = recipe.changed(f"stage_objective.perceptual.weights={WEIGHTS}", *settings)
    run = ldm_core.train(recipe, data=data, out=out, until="first_stage")
    held_out = run.metrics("first_stage_evaluation")[-1]
    print(f"PSNR {held_out['psnr']:.1f} dB, SSIM {held_out['ssim']:.2f} on {held_out['evaluated_images']:.0f} pictures")


if __name__ == "__main__":
    main(*sys.argv[1:])
