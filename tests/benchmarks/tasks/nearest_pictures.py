"""The training pictures nearest to each sample, by pixels and by features; and a sheet that shows them.

Of a model of texts, `asked` is the share of samples of captions seen in training whose nearest training picture is the
one of that caption, and `group` the share of samples of held-out captions whose nearest training picture is of the
caption's group. Of a model without a condition only the sheet is made, and the mean distances.

    python nearest_pictures.py runs/emoji --count 200 --set guidance.scale=3 --out figures/emoji.json
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from run_options import Asked, asked
from task_sets import about, batches, features, images_of, network, own_data, record, sha256

from ldm_core.data import images

CELL, PIXELS = 48, 32
SHOWN = 24


def nearest(made: NDArray[np.float64], known: NDArray[np.float64], count: int = 5) -> NDArray[np.intp]:
    """The `count` nearest rows of `known` (M, D) to each of `made` (N, D): (N, count), the nearest first."""
    squares = (made**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * made @ known.T
    return np.argsort(squares, 1, kind="stable")[:, :count]


def asked_share(order: NDArray[np.intp], wanted: NDArray[np.intp]) -> dict[str, float]:
    """The share of rows whose first entry is the wanted one, and those with it among the first five."""
    return {
        "asked": float((order[:, 0] == wanted).mean()),
        "asked among 5": float((order == wanted[:, None]).any(1).mean()),
    }


def group_share(order: NDArray[np.intp], groups: NDArray[np.int64], wanted: NDArray[np.int64]) -> dict[str, float]:
    """The share of rows whose nearest is of the wanted group, and that of the largest group among the wanted."""
    majority = Counter(groups.tolist()).most_common(1)[0][0]
    return {"group": float((groups[order[:, 0]] == wanted).mean()), "largest group": float((wanted == majority).mean())}


def pixels(pictures: NDArray[np.uint8], side: int = PIXELS) -> NDArray[np.float64]:
    """Pictures (N, c, H, W) as rows of numbers, at `side` pixels, antialiased."""
    import torch
    from torch.nn import functional as F

    small = [
        F.interpolate(torch.from_numpy(pictures[i : i + 256]).float(), (side, side), mode="bilinear", antialias=True)
        for i in range(0, len(pictures), 256)
    ]
    return torch.cat(small).flatten(1).double().numpy()


def sheet(path: str, made: NDArray[np.uint8], known: NDArray[np.uint8], order: NDArray[np.intp], texts: Any) -> None:
    """Samples, and under each its three nearest training pictures: a column a sample."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    count = min(SHOWN, len(made))
    shown = [made[i] for i in range(count)]
    for place in range(3):
        shown += [known[order[i, place]] for i in range(count)]
    labels = [*texts[:count], *[""] * (3 * count)] if texts else None
    picture = (
        images.grid(shown, labels, columns=count, cell=CELL) if labels else images.grid(shown, columns=count, cell=CELL)
    )
    Path(path).write_bytes(images.png_bytes(picture))


def main() -> None:
    """Sample, compare and print."""
    more = (("--side", {"type": int, "default": 64, "help": "side at which the network sees pictures"}),)
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    sees = network(options.weights, size=options.side)
    rows: list[tuple[str, dict[str, float]]] = []
    told: dict[str, Any] = {"run": options.run, "run_sha256": sha256(options.run), "network": sees.source}
    found, training, made = options.sets(settings=["split=train"])
    text, grouped = "caption" in found.pipeline.reads, "class_label" in training.keys
    known = images_of(training)
    ways = {"features": lambda x: features(sees, x), "pixels": pixels}
    spaces = {name: way(known) for name, way in ways.items()}
    groups = (
        np.array([int(e["class_label"]) for _, t in batches(training, ["class_label"]) for e in t.examples])
        if grouped
        else None
    )
    kinds: list[tuple[str, Any, Any]] = [("seen captions" if text else "samples", training, made)]
    if text:
        held_out = own_data(options.run, found)
        count, options.count = options.count, len(held_out)
        kinds.append(("held-out captions", held_out, options.sets(settings=[])[2]))
        options.count = count
    for name, inputs, samples in kinds:
        pictures = images_of(samples)
        told[name] = about(samples)
        places = np.array([i * len(inputs) // len(samples) for i in range(len(samples))])
        for space, way in ways.items():
            order = nearest(way(pictures), spaces[space])
            values = {"pictures": float(len(pictures))}
            if text and inputs is training:
                values |= asked_share(order, places)
            if text and grouped and groups is not None:
                wanted = np.array([int(inputs.example(int(i), ["class_label"])["class_label"]) for i in places])
                values |= group_share(order, groups, wanted)
            rows.append((f"{name}, {space}", values))
            texts = [str(inputs.example(int(i), ["caption"])["caption"]) for i in places[:SHOWN]] if text else None
            sheet(f"{Path(options.out).with_suffix('')}_{name.split()[0]}_{space}.png", pictures, known, order, texts)
    record(options.out, told, rows)


if __name__ == "__main__":
    main()
