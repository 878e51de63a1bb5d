r"""Guiding by a small picture, of a model that was not trained to read one, at its training size.

Each held-out picture is made small by Pillow's bicubic filter. `unguided` is the model as it was trained, with its own
conditions; `guided` the same noise with the guidance low_resolution_target; `bicubic` the small picture enlarged.
`small psnr` is of the samples made small, beside the small pictures.

    python measure_guiding.py runs/emoji --factor 4 --count 32 --set sample.steps=50 --out figures/guiding.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pair_figures import FeaturePairs, psnr, ssim
from run_options import Asked, asked
from task_sets import model, own_data, record, sha256
from train_regression import enlarged, small

from ldm_core.data import images


def main() -> None:
    """Sample with and without the target, measure and print."""
    more = (
        ("--factor", {"type": int, "default": 4, "help": "by how much the pictures are made small"}),
        ("--scale", {"type": float, "default": 0.0, "help": "of the guidance; 0: its own"}),
    )
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    found = model(options.run, options.set)
    assert found.pipeline is not None
    held_out = own_data(options.run, found, options.pictures)
    count = min(options.count or 32, len(held_out))
    places = [i * len(held_out) // count for i in range(count)]
    keys = sorted(found.pipeline.reads)
    examples = [held_out.example(i, keys) for i in places]
    conditions = [{key: each[key] for key in keys} for each in examples]
    real = np.concatenate([held_out.take(range(i, i + 1), []).images for i in places])
    given = np.stack([small(each, options.factor) for each in real])
    target = {"factor": options.factor, **({"scale": options.scale} if options.scale else {})}
    guided = found.pipeline.with_settings({"guides": {"low_resolution_target": target}})
    asked_for = [{**each, "image": picture} for each, picture in zip(conditions, given, strict=True)]

    def sampled(pipeline: Any, wanted: Any) -> NDArray[np.uint8]:
        return np.stack([each.image for each in pipeline.sample(**wanted, seed=options.seed, batch=8)])

    ways = {
        "bicubic": np.stack([enlarged(each, options.factor) for each in given]),
        "unguided": sampled(found.pipeline, {"inputs": conditions} if keys else {"images": count}),
        "guided": sampled(guided, {"inputs": asked_for}),
    }
    pairs = FeaturePairs(options.weights)
    rows = [
        (
            name,
            {
                "psnr": psnr(made, real),
                "ssim": ssim(made, real),
                "small psnr": psnr(np.stack([small(each, options.factor) for each in made]), given),
                "feature distance": pairs(made, real),
            },
        )
        for name, made in ways.items()
    ]
    cells = given.repeat(options.factor, 2).repeat(options.factor, 3)
    shown = [each[i] for i in range(min(12, count)) for each in (cells, *ways.values(), real)]
    sheet = Path(options.out).with_suffix(".png")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes(images.png_bytes(images.grid(shown, columns=2 + len(ways))))
    document = {
        "run": options.run, "run_sha256": sha256(options.run), "pictures": count, "seed": options.seed,
        "settings": options.set, "guide": target, "columns": ["given", *ways, "real"],
    }  # fmt: skip
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
