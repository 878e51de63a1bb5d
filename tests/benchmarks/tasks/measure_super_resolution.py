r"""Super-resolution of whole photographs by a model of crops: beside bicubic enlargement and a regression network.

Held-out photographs are made small by Pillow's bicubic filter and enlarged at their own size, those of one size
(``--size``, the commonest of the data if left out). The Fréchet distance is of patches of 48 pixels, by the layer
blocks.6 of EfficientNet-Lite0; its name is not FID. `guided` is the model with the guidance low_resolution_target.

    python measure_super_resolution.py runs/super_resolution --regression judges/regression.safetensors \
        --set sample.steps=50 --out figures/super_resolution.json
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pair_figures import FeaturePairs, distance, energy, patches, psnr, ssim
from run_options import Asked, Options, asked
from task_sets import model, network, record, sha256
from train_judge import size_of
from train_regression import Regression, enlarged, factor_of, photographs, small

from ldm_core.data import images

PATCH = 48
GUIDED = "guides={low_resolution_target: {factor: %d}}"


def figures(made: NDArray[np.uint8], real: NDArray[np.uint8], pairs: FeaturePairs, sees: Any) -> dict[str, float]:
    """All figures of pictures beside their originals."""
    return {
        "psnr": psnr(made, real),
        "ssim": ssim(made, real),
        "feature distance": pairs(made, real),
        "fd of patches": distance(sees, patches(made, PATCH), patches(real, PATCH)),
        "gradient energy / real": energy(made) / energy(real),
    }


def of_one_size(options: Options) -> NDArray[np.uint8]:
    """The held-out photographs of one size."""
    known = photographs(options.run, model(options.run), options.pictures)
    size = options.size or Counter(each.shape[1:] for each in known).most_common(1)[0][0]
    chosen = [each for each in known if each.shape[1:] == tuple(size)][: options.count or None]
    if not chosen:
        raise SystemExit(f"no photograph of {size[0]}x{size[1]} among {len(known)}")
    return np.stack(chosen)


def sampled(
    options: Options, given: NDArray[np.uint8], size: tuple[int, int], settings: list[str]
) -> NDArray[np.uint8]:
    """Samples of the run at `size`, one for each small picture."""
    pipeline = model(options.run, [*options.set, *settings], size).pipeline
    assert pipeline is not None
    made = pipeline.sample(inputs=[{"image": each} for each in given], seed=options.seed, batch=4)
    return np.stack([each.image for each in made])


def main() -> None:
    """Enlarge in each way, measure and print."""
    more = (
        ("--regression", {"default": "", "help": "of train_regression.py"}),
        ("--size", {"type": size_of, "default": None, "help": "of the photographs, 192x144"}),
        ("--guided", {"type": int, "default": 0, "help": "photographs for the guided model, which takes longer"}),
        ("--side", {"type": int, "default": 96, "help": "side at which the network sees patches"}),
    )
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    real = of_one_size(options)
    size, factor = (int(real.shape[2]), int(real.shape[3])), factor_of(model(options.run).recipe)
    given = np.stack([small(each, factor) for each in real])
    large = np.stack([enlarged(each, factor) for each in given])
    pairs, sees = FeaturePairs(options.weights), network(options.weights, "blocks.6", options.side)
    ways = {"bicubic": large, "model": sampled(options, given, size, [])}
    if options.regression:
        network_ = Regression.load(options.regression)
        ways["regression"] = np.concatenate([network_.pictures(large[i : i + 4]) for i in range(0, len(large), 4)])
    rows = [(name, figures(made, real, pairs, sees)) for name, made in ways.items()]
    if options.guided:
        few = slice(0, options.guided)
        guided = sampled(options, given[few], size, [GUIDED % factor])
        rows += [
            (f"{name}, {len(guided)}", figures(each, real[few], pairs, sees))
            for name, each in (("model", ways["model"][few]), ("guided", guided))
        ]
    order = real[np.random.default_rng(options.seed).permutation(len(real))]
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    rows.append(("two real halves", {"fd of patches": distance(sees, *(patches(each, PATCH) for each in halves))}))
    cells = given.repeat(factor, 2).repeat(factor, 3)
    shown = [each[i] for i in range(min(6, len(real))) for each in (cells, *ways.values(), real)]
    sheet = Path(options.out).with_suffix(".png")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes(images.png_bytes(images.grid(shown, columns=2 + len(ways))))
    document = {
        "run": options.run, "run_sha256": sha256(options.run), "photographs": len(real), "size": size, "factor": factor,
        "seed": options.seed, "settings": options.set, "network": sees.source, "columns": ["given", *ways, "real"],
        "regression_sha256": sha256(options.regression) if options.regression else None,
    }  # fmt: skip
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
