"""Large pictures through a first stage: peak memory above the weights, and the difference from the untiled result.

python THIS_FILE memory vq_f4 --size 4096 [--scale paper] [--tile 1024] [--memory 3072] [--encode]
python THIS_FILE seams vq_f4 --size 1024 [--scale paper] [--foreign] [--weights FILE]

`memory` wants a fresh process, as it reads the peak of the whole one. Wanted: at most 4 GiB for a decoding of 4096².
`seams` decodes once whole and once in pieces: wanted are at most 4/255 at the 99th percentile, and a gradient across
the borders of pieces of at most 1.05 times that inside. `--foreign` takes the stage's own pieces away, so that windows
are blended, as for a stage of a third party. Weights are random unless a file of a first stage is given; pictures of
random weights are scaled to a range of 1, or differences of them would say nothing.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage
from ldm_core.model.build import make_first_stage
from ldm_core.model.fill import load_weights, tensors_of
from ldm_core.model.tiles.tiling import Tiling
from ldm_core.nn.tiles.pieces import Pieces
from ldm_core.nn.tiles.windows import starts
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.run import decoded

_SAMPLE = 10_000_000  # values of which percentiles are taken


def stage_of(preset: str, scale: str, weights: str) -> Any:
    """A first stage, frozen."""
    catalog = Catalog.discover()
    stage: Any = make_first_stage(resolve({"image_size": 64, "scale": scale, "first_stage": preset}, catalog), catalog)
    if weights:
        load_weights(stage, tensors_of(weights), weights)
    elif preset.startswith("vq"):  # a fresh codebook is close to 0: all latents would be one code
        torch.nn.init.normal_(stage.quantize.embedding.weight, generator=torch.Generator().manual_seed(0))
    return stage.eval().requires_grad_(False)


def latents(stage: FirstStage, size: int) -> Tensor:
    """Latents with coarse and fine structure, as pictures have it."""
    cells, random = size // stage.latent.stride[0], torch.Generator().manual_seed(0)
    coarse = torch.randn(1, stage.latent.channels, max(cells // 8, 1), max(cells // 8, 1), generator=random)
    fine = torch.randn(1, stage.latent.channels, cells, cells, generator=random)
    return F.interpolate(coarse, (cells, cells), mode="bicubic") + 0.3 * fine


def memory(stage: Any, size: int, tiling: Tiling, *, encodes: bool) -> str:
    """One line: seconds, and GiB at the peak above those before."""
    x = torch.rand(1, 3, size, size) * 2 - 1 if encodes else latents(stage, size)
    with torch.no_grad():
        small = x[:, :, :64, :64] if encodes else x[:, :, :8, :8]
        _ = tiling.moments(stage, small) if encodes else decoded(partial(tiling.decode, stage), small)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        before, began = pages * resource.getpagesize() / 2**30, time.perf_counter()
        _ = tiling.moments(stage, x) if encodes else decoded(partial(tiling.decode, stage), x)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{took:.1f} s, peak {peak:.2f} GiB, {peak - before:.2f} GiB above weights and latents"


class Foreign:
    """A stage without pieces of its own."""

    def __init__(self, stage: Any) -> None:
        self.latent, self.decode = stage.latent, stage.decode


class Borders:
    """A context that notes the borders of the pieces of maps that are `size` wide: rows and columns."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.rows: set[int] = set()
        self.columns: set[int] = set()

    def __enter__(self) -> Borders:
        self._before = before = Pieces.windows

        def windows(pieces: Pieces, x: Any) -> Iterator[Any]:
            for window in before(pieces, x):
                if x.shape[3] == self._size:
                    self.rows.add(window.top)
                    self.columns.add(window.left)
                yield window

        Pieces.windows = windows  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *error: object) -> None:
        Pieces.windows = self._before  # type: ignore[method-assign]


def ratio(picture: Tensor, borders: set[int], axis: int) -> float:
    """The mean step of values across `borders` along an axis of (1, c, H, W), over that elsewhere."""
    steps = picture.diff(dim=axis).abs().mean([each for each in range(4) if each != axis])
    at = torch.zeros(len(steps), dtype=torch.bool)
    at[[place - 1 for place in borders if 0 < place <= len(steps)]] = True
    return float(steps[at].mean() / steps[~at].mean())


def seams(stage: Any, size: int, tiling: Tiling, *, foreign: bool) -> str:
    """One line: the differences from the whole, and the steps across borders over those inside."""
    z, borders = latents(stage, size), Borders(size)
    with torch.no_grad(), borders:
        whole = stage.decode(z)
        borders.rows.clear()
        borders.columns.clear()
        cut = tiling.decode(Foreign(stage) if foreign else stage, z)  # type: ignore[arg-type]
    if foreign:
        step = stage.latent.stride[0]
        window = tiling.pixels // step
        begins = starts(size // step, window, window // 4)
        borders.rows = borders.columns = {p * step for s in begins for p in (s, s + window)}
    scale = max(float(np.quantile(whole.abs().flatten()[:_SAMPLE].numpy(), 0.999)), 1e-6)
    off = ((whole - cut) / scale / 2).abs().flatten()
    some = off[torch.randperm(len(off), generator=torch.Generator().manual_seed(0))[:_SAMPLE]]
    both = [f"{ratio(cut, found, axis):.4f} (whole {ratio(whole, found, axis):.4f})"
            for found, axis in ((borders.rows, 2), (borders.columns, 3))]  # fmt: skip
    most = f"{float(off.max()) * 255:.3f}/255 at most"
    return (
        f"difference {np.quantile(some.numpy(), 0.99) * 255:.4f}/255 at the 99th percentile, {most}; "
        f"steps across {len(borders.rows)} rows {both[0]}, {len(borders.columns)} columns {both[1]}"
    )


def main() -> None:
    """Print one measurement."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("what", choices=("memory", "seams"))
    given.add_argument("preset")
    given.add_argument("--size", type=int, default=1024)
    given.add_argument("--scale", choices=("small", "paper"), default="small")
    given.add_argument("--tile", type=int, help="pixels; default: 1024 for memory, 512 for seams, 256 for windows")
    given.add_argument("--memory", type=int, default=0, help="MiB; default: 3072 for memory, 64 for seams")
    given.add_argument("--encode", action="store_true")
    given.add_argument("--foreign", action="store_true")
    given.add_argument("--weights", default="")
    asked = given.parse_args()
    measured, foreign = asked.what == "memory", asked.foreign
    tile = asked.tile or (1024 if measured else 256 if foreign else 512)
    tiling = Tiling(tile, (asked.memory or (3072 if measured else 64)) << 20)
    stage = stage_of(asked.preset, asked.scale, asked.weights)
    count = sum(p.numel() for p in stage.parameters()) / 1e6
    line = (
        memory(stage, asked.size, tiling, encodes=asked.encode)
        if measured
        else seams(stage, asked.size, tiling, foreign=foreign)
    )
    what = "encode" if asked.encode else "decode"
    print(f"{asked.preset} {asked.scale} ({count:.1f} M) {what} {asked.size}², tile {tile}: {line}", flush=True)


if __name__ == "__main__":
    main()
