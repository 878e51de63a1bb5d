r"""Pictures beyond the size of training: whole, in overlapping windows, and with more steps at high noise.

Prompts are captions of the run's training pictures (a model without texts draws as many pictures). `fd` is of squares
of the training size, cut side by side, beside training pictures; `seam` the mean step of brightness across the borders
of windows over that elsewhere, 1 where none is seen; `memory` the peak of the process above what it held before, in
MiB. The layer is blocks.6 of EfficientNet-Lite0; its distance is not called FID.

    python measure_panorama.py runs/emoji --sizes 64x512 256x256 --window 8 --overlap 4 --out figures/wide.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pair_figures import distance, patches
from run_options import Asked, asked
from task_sets import images_of, model, network, own_data, record, sha256
from train_judge import size_of

from ldm_core.data import images


def peak() -> float:
    """The most memory of this process since :func:`calm`, in MiB."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def calm() -> float:
    """Begin a new peak (Linux); the memory held now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def borders(length: int, side: int, step: int) -> NDArray[np.intp]:
    """Places where windows of `side` pixels that move by `step` begin or end, within `length` pixels."""
    starts = sorted({*range(0, max(length - side, 0), step), max(length - side, 0)})
    places = {*starts, *(start + side for start in starts)}
    return np.array(sorted(place for place in places if 0 < place < length), dtype=np.intp)


def seam(pictures: NDArray[np.uint8], side: int, step: int) -> float:
    """The mean step of brightness across borders of windows, of both axes, over that between all other pixels."""
    grey = pictures.astype(np.float64).mean(1)
    across, elsewhere = [], []
    for axis in (1, 2):
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=(0, 3 - axis))
        places = borders(grey.shape[axis], side, step) - 1
        across.append(steps[places])
        elsewhere.append(np.delete(steps, places))
    return float(np.concatenate(across).mean() / max(np.concatenate(elsewhere).mean(), 1e-12))


def ways(size: tuple[int, int], trained: tuple[int, int], window: int, overlap: int) -> dict[str, list[str]]:
    """The settings of each way by its name; the rescaling is the root of the share of cells in training."""
    share = (trained[0] * trained[1] / (size[0] * size[1])) ** 0.5
    wide = ["adapters.wide.use=multidiffusion", f"adapters.wide.window={window}", f"adapters.wide.overlap={overlap}"]
    scaled = [f"sample.latent_scale={share:.3f}"]
    return {"whole": [], "whole, rescaled": scaled, "windows": wide, "windows, rescaled": [*wide, *scaled]}


def main() -> None:
    """Sample in each way, measure and print."""
    more = (
        ("--sizes", {"nargs": "+", "type": size_of, "required": True, "help": "64x512, 256x256"}),
        ("--window", {"type": int, "default": 8, "help": "latent cells of a window's sides"}),
        ("--overlap", {"type": int, "default": 4, "help": "cells that neighbours share"}),
        ("--side", {"type": int, "default": 64, "help": "side at which the network sees squares"}),
    )
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    sees = network(options.weights, "blocks.6", options.side)
    found = model(options.run)
    training = own_data(options.run, found, ["split=train"])
    real, trained = images_of(training), found.recipe.image_size
    factor = trained[0] // found.recipe.first_stage.config.latent.shape(trained)[1]
    count = options.count or 8
    assert found.pipeline is not None
    asking = "caption" in found.pipeline.reads
    places = [i * len(training) // count for i in range(count)]
    prompts = [str(training.example(i, ["caption"])["caption"]) for i in places] if asking else []
    rows: list[tuple[str, dict[str, float]]] = []
    for size in options.sizes:
        shown: list[Any] = []
        for name, settings in ways(size, trained, options.window, options.overlap).items():
            pipeline = model(options.run, [*options.set, *settings], size).pipeline
            assert pipeline is not None
            held, begun = calm(), time.process_time()
            given = {"inputs": [{"caption": each} for each in prompts]} if asking else {"images": count}
            made = np.stack([each.image for each in pipeline.sample(**given, seed=options.seed, batch=1)])
            values = {
                "fd": distance(sees, patches(made, trained[0]), real),
                "seam": seam(made, options.window * factor, (options.window - options.overlap) * factor),
                "memory": peak() - held,
                "seconds": (time.process_time() - begun) / count,
            }
            rows.append((f"{name}, {size[0]}x{size[1]}", values))
            shown += list(made[:4])
        sheet = Path(f"{Path(options.out).with_suffix('')}_{size[0]}x{size[1]}.png")
        sheet.parent.mkdir(parents=True, exist_ok=True)
        columns = 1 if size[1] > 2 * size[0] else 4
        sheet.write_bytes(images.png_bytes(images.grid(shown, columns=columns)))
    half = len(real) // 2
    order = np.random.default_rng(options.seed).permutation(len(real))
    rows.append(("two real halves", {"fd": distance(sees, real[order[:half]], real[order[half:]])}))
    document = {
        "run": options.run, "run_sha256": sha256(options.run), "seed": options.seed, "settings": options.set,
        "prompts": prompts, "network": sees.source, "trained": trained, "window": options.window,
        "overlap": options.overlap,
    }  # fmt: skip
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
