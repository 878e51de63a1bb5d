"""Inpainting: fills of a model beside the mean colour and OpenCV's two methods, for all masks and for large ones.

Each held-out picture gets two masks of the run's degradation: the first one of its seeds, and the first that covers 40
to 50 percent. `known` is the share of pictures whose pixels outside of the hole are those of the original, all of them;
`spread` the mean deviation, in levels, of pixels in holes over four fills of one hole. Distances are on maps and
features of EfficientNet-Lite0.

    python measure_inpainting.py runs/inpainting --out figures/inpainting.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pair_figures import FeaturePairs, distance, psnr
from run_options import Asked, asked
from task_sets import images_of, network, record, sha256

from ldm_core.data import images

ANY, LARGE = (0.0, 1.0), (0.40, 0.50)
"""Shares of a picture in the hole."""
TRIES = 400
FILLS = 4


def masks(found: Any, pictures: NDArray[np.uint8], shares: tuple[float, float]) -> NDArray[np.bool_]:
    """A mask (N, H, W) for each picture, True in holes: the first of its seeds that covers a share within `shares`.

    SystemExit where none of 400 seeds is within them.
    """
    from ldm_core.model.degraded import Degraded

    degraded = Degraded.of(found.recipe, found.pipeline.catalog)
    if degraded is None:
        raise SystemExit("the run's masked_image has no degradation, which draws masks")
    made = []
    for place, picture in enumerate(pictures):
        for trial in range(TRIES):
            mask = degraded.made({"image": picture}, degraded.seed(place + trial * len(pictures)))["mask"] > 127
            if shares[0] <= mask.mean() <= shares[1]:
                made.append(mask)
                break
        else:
            raise SystemExit(f"picture {place}: none of {TRIES} masks covers {shares[0]:.0%} to {shares[1]:.0%}")
    return np.stack(made)


def mean_colour(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture (3, H, W) with the mean of its known pixels in the hole; mid-grey if none is known."""
    made = picture.copy()
    known = picture[:, ~mask]
    made[:, mask] = (known.mean(1) if known.size else np.full(3, 127.0)).round().astype(np.uint8)[:, None]
    return made


def by_opencv(picture: NDArray[np.uint8], mask: NDArray[np.bool_], way: str) -> NDArray[np.uint8]:
    """The hole filled by OpenCV: `way` is INPAINT_TELEA (Telea 2004) or INPAINT_NS (Bertalmio et al. 2001)."""
    try:
        import cv2
    except ImportError:
        raise SystemExit("OpenCV is needed for its two methods: pip install opencv-python-headless") from None
    rows = np.ascontiguousarray(picture.transpose(1, 2, 0)[:, :, ::-1])
    filled = cv2.inpaint(rows, mask.astype(np.uint8) * 255, 5, getattr(cv2, way))
    made = np.ascontiguousarray(filled[:, :, ::-1].transpose(2, 0, 1))
    return np.where(mask[None], made, picture)


def unchanged(made: NDArray[np.uint8], real: NDArray[np.uint8], holes: NDArray[np.bool_]) -> float:
    """The share of pictures all of whose known pixels are those of the original."""
    same = (made == real) | holes[:, None]
    return float(same.reshape(len(same), -1).all(1).mean())


def spread(fills: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """The mean, over pixels in the hole, of the deviation over fills (F, 3, H, W), in levels."""
    return float(fills.astype(np.float64).std(0)[:, mask].mean())


def main() -> None:
    """Fill in each way, measure and print."""
    more = (("--side", {"type": int, "default": 96, "help": "side at which the network sees pictures"}),)
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    found, inputs, _ = options.sets()
    real = images_of(inputs)[: options.count or None]
    pairs, sees = FeaturePairs(options.weights), network(options.weights, "blocks.6", options.side)
    rows: list[tuple[str, dict[str, float]]] = []
    shown: list[NDArray[np.uint8]] = []
    for name, shares in (("all masks", ANY), ("40-50 %", LARGE)):
        holes = masks(found, real, shares)

        def filled(count: int, places: range, holes: NDArray[np.bool_] = holes) -> NDArray[np.uint8]:
            given = [{"image": real[i], "mask": holes[i]} for i in places for _ in range(count)]
            made = found.pipeline.sample(inputs=given, seed=options.seed, batch=32)
            return np.stack([each.image for each in made])

        each_of = list(zip(real, holes, strict=True))
        ways = {
            "model": filled(1, range(len(real))),
            "mean colour": np.stack([mean_colour(*pair) for pair in each_of]),
            "OpenCV, Telea": np.stack([by_opencv(*pair, "INPAINT_TELEA") for pair in each_of]),
            "OpenCV, Navier-Stokes": np.stack([by_opencv(*pair, "INPAINT_NS") for pair in each_of]),
        }
        for way, made in ways.items():
            values = {"psnr": psnr(made, real), "feature distance": pairs(made, real), "fd": distance(sees, made, real)}
            rows.append((f"{way}, {name}", {"known": unchanged(made, real, holes), **values}))
        several = filled(FILLS, range(min(8, len(real)))).reshape(-1, FILLS, *real.shape[1:])
        rows[-len(ways)][1]["spread"] = float(np.mean([spread(f, holes[i]) for i, f in enumerate(several)]))
        rows[-len(ways)][1]["hole"] = float(holes.mean())
        for i in range(min(6, len(real))):
            hole = np.where(holes[i][None], np.uint8(255), real[i])
            shown += [real[i], hole, *several[i], *(ways[way][i] for way in list(ways)[1:])]
    sheet = Path(options.out).with_suffix(".png")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes(images.png_bytes(images.grid(shown, columns=2 + FILLS + 3)))
    half = len(real) // 2
    rows.append(("two real halves", {"fd": distance(sees, real[:half], real[half : 2 * half])}))
    columns = ["real", "hole", *["model"] * FILLS, "mean colour", "Telea", "Navier-Stokes"]
    document = {
        "run": options.run, "run_sha256": sha256(options.run), "pictures": len(real), "seed": options.seed,
        "settings": options.set, "network": sees.source, "inputs": inputs.about(), "columns": columns,
    }  # fmt: skip
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
