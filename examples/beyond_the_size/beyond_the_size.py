"""Draw a panorama by the run of examples/emoji_text, eight times as wide as its pictures."""

from __future__ import annotations

import sys

import ldm_core


def main(run: str = "runs/emoji_text", out: str = "runs/emoji_text/wide") -> None:
    """Sample by the model in the folder `run` into the folder `out`, in overlapping windows of 8 latent cells."""
    pipeline = ldm_core.load(run)
    height, width = pipeline.recipe.image_size
    windows = {"use": "multidiffusion", "window": 8, "overlap": 4}
    wide = pipeline.at_size((height, 8 * width)).with_settings({"adapters": {"wide": windows}})
    for i, image in enumerate(wide.sample("woman walking", images=2)):
        image.save(f"{out}/{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
