"""Make an emoji of a drawing, by the run of examples/emoji_text: the drawing is noised in part, and drawn anew."""

from __future__ import annotations

import sys

from PIL import Image

import ldm_core


def main(run: str = "runs/emoji_text", out: str = "runs/emoji_text/from_drawing") -> None:
    """Sample by the model in the folder `run` into the folder `out`, at three strengths."""
    pipeline = ldm_core.load(run)
    drawing = Image.open("examples/image_to_image/drawing.png")
    for strength in (0.4, 0.6, 0.8):
        start = ldm_core.Start.image(drawing, strength=strength)
        for i, image in enumerate(pipeline.sample("grinning face", images=4, start=start)):
            image.save(f"{out}/{strength}-{i:04}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
