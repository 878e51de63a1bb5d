"""The sight of distances: Fashion-MNIST under blur, noise, JPEG and missing classes, by a trained and a random network.

The reference is one half of the test set's first pictures, the other half is changed by rising amounts, and measured
by FD and KD on one layer of EfficientNet-Lite0 with its weights, and of the same with random ones. Each figure is over
that of the unchanged half, which is the floor. Writes distances.png and distances.csv, prints the table, and says of
each row if it grows at every step:

    python THIS_FILE --data ../shared/data/fashion_mnist --weights tf_efficientnet_lite0.safetensors --out FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import io
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm_plugin_metrics.distances.config import FDConfig, KIDConfig
from ldm_plugin_metrics.distances.frechet import FrechetDistance
from ldm_plugin_metrics.distances.kernel import KernelDistance
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ldm_core.contracts import Pictures

NETWORK, LAYER, SIDE = "tf_efficientnet_lite0", "blocks.6", 64
LEVELS: Mapping[str, tuple[float, ...]] = {
    "blur, sigma in pixels": (0.5, 1.0, 2.0),
    "noise, levels": (8, 24, 64),
    "JPEG, quality": (60, 25, 8),
    "classes left of 10": (8, 5, 2),
}
Levels = NDArray[np.uint8]


def pictures(folder: Path, count: int) -> tuple[Levels, NDArray[np.uint8]]:
    """The first pictures (N, 28, 28) of the test set, and their classes."""
    images = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28)[:count], classes[:count]


def changed(kind: str, level: float, images: Levels, classes: NDArray[np.uint8]) -> Levels:
    """Pictures under one change; of fewer classes, those that are left repeat until they are as many."""
    if kind.startswith("classes"):
        kept = np.flatnonzero(classes < level)
        return images[np.resize(kept, len(images))]
    if kind.startswith("noise"):
        noise = np.random.default_rng(0).normal(0, level, images.shape)
        return np.clip(images + noise, 0, 255).round().astype(np.uint8)
    each: Callable[[Image.Image], Image.Image] = (
        (lambda picture: picture.filter(ImageFilter.GaussianBlur(level)))
        if kind.startswith("blur")
        else (lambda picture: _jpeg(picture, int(level)))
    )
    return np.stack([np.asarray(each(Image.fromarray(image))) for image in images])


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def measured(settings: Mapping[str, Any], sets: Mapping[Any, Levels]) -> dict[Any, tuple[float, float]]:
    """FD and KD of every set against the one named `reference`."""
    site: Any = None
    fd = FrechetDistance(FDConfig(network=NETWORK, layer=LAYER, size=SIDE, **settings), site)
    kd = KernelDistance(KIDConfig(network=NETWORK, layer=LAYER, size=SIDE, subsets=0, **settings), site)
    rows = {}
    for name, images in sets.items():
        batches = torch.from_numpy(images.copy())[:, None].split(50)
        rows[name] = {"features": np.concatenate([fd.measure(Pictures(batch))["features"] for batch in batches])}
    reference = rows.pop("reference")
    sums = fd.sums(reference)
    return {name: (fd.values(fd.sums(own), sums)["fd"], kd.values(own, reference)["kd"]) for name, own in rows.items()}


def draw(found: Mapping[str, Mapping[Any, tuple[float, float]]], out: Path) -> None:
    """A panel for each change, with a line for each network and distance."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(LEVELS), figsize=(13, 3.4), sharey=True)
    for axis, (kind, levels) in zip(axes, LEVELS.items(), strict=True):
        for colour, (network, values) in enumerate(found.items()):
            fds = [values[kind, level][0] / values["unchanged"][0] for level in levels]
            axis.plot(range(4), [1, *fds], f"C{colour}o-", label=network)
        axis.set(yscale="log", title=kind, xticks=range(4), xticklabels=["none", *(f"{x:g}" for x in levels)])
    axes[0].set(ylabel="FD / FD of two unchanged halves")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out / "distances.png", dpi=90)


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400, help="pictures of a half")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    images, classes = pictures(given.data, 2 * given.count)
    reference, own, kinds = images[: given.count], images[given.count :], classes[given.count :]
    sets: dict[Any, Levels] = {"reference": reference, "unchanged": own}
    sets |= {(kind, x): changed(kind, x, own, kinds) for kind, levels in LEVELS.items() for x in levels}
    found = {
        name: measured(settings, sets)
        for name, settings in (("trained", {"weights": given.weights}), ("random", {"random_seed": 0}))
    }
    lines = ["network,change,level,fd,kd"]
    for network, values in found.items():
        lines.append(f"{network},unchanged,,{values['unchanged'][0]:.6g},{values['unchanged'][1]:.6g}")
        for kind, levels in LEVELS.items():
            lines += [f'{network},"{kind}",{x:g},{values[kind, x][0]:.6g},{values[kind, x][1]:.6g}' for x in levels]
            for place, distance in enumerate(("fd", "kd")):
                path = [values["unchanged"][place], *(values[kind, level][place] for level in levels)]
                grows = all(a < b for a, b in pairwise(path))
                print(f"{network} {distance} {kind}: {'grows' if grows else 'does not grow at each step'}")
    (given.out / "distances.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    draw(found, given.out)


if __name__ == "__main__":
    main()
