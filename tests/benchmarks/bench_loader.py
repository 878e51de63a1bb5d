"""Images a second and worker of the loader, and of bare Pillow that decodes and resizes the same files.

Bare Pillow opens, converts, resizes (bicubic, the centre) and hands out an array, nothing else; it runs in as many
processes as the loader has workers, at another time. The loader reads from a tar, decodes, fits, mirrors, collates and
sends batches to this process. Rounds alternate, the median of the ratios counts. The loader decodes large JPEGs at a
fraction of their size; so that it is not measured by that, the first case has none. Run it on an idle machine:
python THIS_FILE [--workers 0 1]. Wanted: 0.8 or more of bare Pillow.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.engine import world as worlds
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import Loader

CASES: dict[str, tuple[str, tuple[int, int], int]] = {
    "jpeg 500x375 -> 256": ("JPEG", (500, 375), 256),
    "jpeg 1600x1200 -> 256": ("JPEG", (1600, 1200), 256),
    "png 512x384 -> 256": ("PNG", (512, 384), 256),
    "png 64x64 -> 64": ("PNG", (64, 64), 64),
}
_BATCH = 16
Clock = Callable[[], float]


def picture(kind: str, size: tuple[int, int], seed: int) -> bytes:
    """A picture about as hard to code as a photograph: smooth shapes with noise that grows with the wavelength."""
    rng = np.random.default_rng(seed)
    width, height = size
    out = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((4, 60.0), (16, 30.0), (64, 12.0), (max(width, height), 3.0)):
        coarse = rng.normal(0, strength, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        planes = [Image.fromarray(coarse[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(3)]
        out += np.stack([np.asarray(p) for p in planes], -1)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(out + 128, 0, 255).astype(np.uint8)).save(buffer, format=kind, quality=90)
    return buffer.getvalue()


def bare(files: Sequence[bytes], side: int, count: int) -> None:
    """Open, convert, resize the centre: `count` arrays of `side` x `side`."""
    for i in range(count):
        image = Image.open(io.BytesIO(files[i % len(files)])).convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        box = (left, top, left + short, top + short)
        np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def _bare_seconds(files: Sequence[bytes], side: int, count: int, processes: int, clock: Clock) -> float:
    """Seconds until each of `processes` has done `count`; without any, this process does them."""
    if not processes:
        begun = clock()
        bare(files, side, count)
        return clock() - begun
    context = multiprocessing.get_context("fork")
    ready, go = context.Barrier(processes + 1), context.Barrier(processes + 1)

    def work() -> None:
        ready.wait()
        bare(files, side, count)
        go.wait()

    children = [context.Process(target=work, daemon=True) for _ in range(processes)]
    for child in children:
        child.start()
    ready.wait()
    begun = clock()
    go.wait()
    taken = clock() - begun
    for child in children:
        child.join()
    return taken


def _loader_seconds(data: TarDataset, side: int, count: int, workers: int, clock: Clock) -> float:
    """Seconds of `count` images a worker, from the second batch of each worker on; nothing is kept in memory."""
    per = max(1, workers)
    settings = DataSettings(flip=True, keep=0, workers=workers)
    examples = Examples(data, (side, side), settings, ["image"])
    skipped, steps = 2 * workers, per * count // _BATCH
    loader = Loader(
        examples, examples.arrangement, examples.keys, images_per_step=_BATCH, accumulate=1,
        steps=skipped + steps + 2 * workers, world=worlds.start(), seed=0, workers=workers,
        bad=examples.dataset,
    )  # fmt: skip
    stream = loader.steps(0)
    for _ in range(skipped):
        next(stream)
    begun = clock()
    for _ in range(steps):
        next(stream)
    taken = clock() - begun
    return taken


def measure(
    name: str, workers: int, rounds: int, count: int, clock: Clock = time.perf_counter, distinct: int = 64
) -> float:
    """The median of the loader's rate over bare Pillow's, image by image and worker by worker."""
    kind, size, side = CASES[name]
    files = [picture(kind, size, seed) for seed in range(distinct)]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(Path(folder) / "a.tar", "w") as archive:
            for number, data in enumerate(files):
                member = tarfile.TarInfo(f"{number:06d}.{kind.lower()}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        opened = TarDataset(TarConfig(url=folder), Site(size=(side, side)))
        count = max(1, count // _BATCH) * _BATCH
        pairs = []
        for number in range(rounds + 1):
            both = {}
            for each in [0, 1] if number % 2 else [1, 0]:
                both[each] = (
                    _bare_seconds(files, side, count, workers, clock)
                    if each
                    else _loader_seconds(opened, side, count, workers, clock)
                )
            if number:  # the first warms up
                pairs.append((count / both[0], count / both[1]))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(
        f"{name:<24} workers {workers}: {ours:7.1f} images/s a worker, bare Pillow {theirs:7.1f}; {ratio:5.2f} x "
        f"({min(a / b for a, b in pairs):.2f} to {max(a / b for a, b in pairs):.2f})"
    )
    return ratio


@pytest.mark.benchmark
@pytest.mark.parametrize("name", CASES)
def test_loader_rate(name: str) -> None:
    """Prints the ratio; asserts none."""
    assert measure(name, 0, rounds=3, count=128) > 0


def main() -> None:
    """Print the rates and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256, help="images a round and worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--cpu-time", action="store_true", help="this process's own time: for workers 0 alone")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    for name in CASES if options.case == "all" else [options.case]:
        for workers in [0] if options.cpu_time else options.workers:
            measure(name, workers, options.rounds, options.images, clock)


if __name__ == "__main__":
    main()
