"""Data on S3, read by loader workers that were forked after this process had spoken to the server."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from s3_server import s3_bucket

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.recipe.settings import DataSettings
from ldm_core.storage.cache import DataCache
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import Loader

pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture(scope="module")
def shards() -> Iterator[str]:
    with s3_bucket("data"):
        for number in range(3):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for i in range(8):
                    picture = np.random.default_rng(8 * number + i).integers(0, 256, (3, 12, 10), dtype=np.uint8)
                    data = images.png_bytes(picture)
                    member = tarfile.TarInfo(f"p{8 * number + i:02d}.png")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            storage.atomic_write(f"s3://data/set/x-{number:06d}.tar", buffer.getvalue())
        yield "s3://data/set/x-{000000..000002}.tar"


@pytest.mark.parametrize("way", ["memory", "range", "copies", "few copies"])
def test_workers_read_what_this_process_reads(shards: str, tmp_path: Path, way: str) -> None:
    limit = {"copies": 1 << 20, "few copies": 25_000}.get(way)
    cache = None if limit is None else DataCache(str(tmp_path / "cache"), limit)
    keep = 1 << 20 if way == "memory" else 0
    made: dict[int, list[torch.Tensor]] = {}
    for workers in (0, 2):
        data = TarDataset(TarConfig(url=shards, keep_bytes=keep), Site(size=(8, 8), cache=cache))
        examples = Examples(data, (8, 8), DataSettings(keep=0), ["image"])
        loader = Loader(
            examples, examples.arrangement, examples.keys, images_per_step=6, accumulate=1, steps=8,
            world=World(0, 1, torch.device("cpu")), seed=0, workers=workers, bad=examples.dataset,
        )  # fmt: skip
        made[workers] = [micro.batch["image"] for (micro,) in loader.steps(0)]
        assert not examples.dataset.bad
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[2], strict=True))
    if cache is not None:
        held = sum(p.stat().st_size for p in cache.folder.glob("??/*"))
        assert 0 < held <= cache.limit
