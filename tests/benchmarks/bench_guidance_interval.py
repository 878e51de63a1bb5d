"""What an interval of guidance costs and gives, on a trained run of the shapes: time, right prompts, distance to data.

Prompts and the classical reader are those of the acceptance test; the distance is `fd_random` between samples and
held-out scenes of the same captions' distribution, so its numbers compare with each other only (two halves of real
scenes are told as the floor). Settings take turns, the median time counts. Run it on an idle machine:
python THIS_FILE RUN [--images 200]. Wanted: 1.4 times the images a second of guidance everywhere, at no worse figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from idleness import Others

import ldm_core
from ldm_core.builtin.shapes.dataset import held_out_prompts, held_out_scenes
from ldm_core.contracts import Site
from ldm_core.data.collate import to_images
from ldm_core.training.first_stage.frechet import RandomFeatures, frechet_distance

INTERVALS: tuple[tuple[float, float | None] | None, ...] = (
    None,
    (0.3, 3.0),
    (0.5, 2.0),
    (0.7, 3.0),
    (1.0, 5.0),
    (1.0, None),
)


def right(samples: list[Any], prompts: list[Any]) -> float:
    """The share of samples whose colour and shape are read as asked."""
    sys.path.append(str(Path(__file__).parents[1]))
    from shape_reader import read_shape

    got = [read_shape(s.image) for s in samples]
    return float(np.mean([(g.colour, g.shape) == (p.colour, p.shape) for g, p in zip(got, prompts, strict=True)]))


def main() -> None:
    """Print a row an interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    others = Others()
    pipeline = ldm_core.load(options.run)
    prompts = held_out_prompts(options.images, seed=2)
    scenes = held_out_scenes(2 * options.images, Site(size=pipeline.recipe.image_size))
    features = RandomFeatures()

    def of(images: list[np.ndarray]) -> torch.Tensor:
        return features(to_images(np.stack(images)))

    real = of([scenes[i]["image"] for i in range(len(scenes))])
    half = options.images
    print(f"real against real, two halves: {frechet_distance(real[:half], real[half:]):.4f}")
    taken: dict[Any, list[float]] = {each: [] for each in INTERVALS}
    made: dict[Any, Any] = {}
    for _ in range(options.rounds):
        for each in INTERVALS:
            settings = {"guidance": {"use": "cfg", "scale": options.scale, "interval": each and list(each)}}
            chosen = pipeline.with_settings(settings)
            begun = time.perf_counter()
            made[each] = chosen.sample([p.caption for p in prompts], steps=options.steps, seed=500, batch=50)
            taken[each].append(time.perf_counter() - begun)
    base = statistics.median(taken[None])
    for each in INTERVALS:
        value = statistics.median(taken[each])
        distance = frechet_distance(real, of([s.image for s in made[each]]))
        print(f"  interval {each!s:<12} {options.images / value:7.2f} images/s  {base / value:5.2f} x  "
              f"right {right(made[each], prompts):.1%}  FD {distance:.4f}")  # fmt: skip
    print(others.line())


if __name__ == "__main__":
    main()
