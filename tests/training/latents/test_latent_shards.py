"""Shards of moments by themselves: how data is cut into them, several sizes, number types."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from ldm_core.errors import CheckpointError
from ldm_core.training.latents import shards as latents_shards
from ldm_core.training.latents.cache import Cache
from ldm_core.training.latents.shards import MANIFEST, read_manifest


def test_shards_are_cut_by_size_and_spread_over_processes() -> None:
    source = latents_shards.Source("a", "b", (256, 256), 3, "crop", True)
    small = latents_shards.plan(source, [((256, 256), range(100), (3, 64, 64))])
    assert [len(s.indices) for s in small] == [32, 32, 32, 4]
    large = latents_shards.plan(source, [((256, 256), range(100_000), (3, 64, 64))])
    each = 2 * 4 * 3 * 64 * 64
    assert {len(s.indices) for s in large[:-1]} == {672}  # 64 MiB hold 682: a multiple of the batch
    assert each * 672 <= 64 << 20 < each * 704
    assert [i for s in large for i in s.indices] == list(range(100_000))
    huge = latents_shards.plan(source, [((4096, 4096), range(5), (3, 4096, 4096))])
    assert [len(s.indices) for s in huge] == [1] * 5


def test_shards_of_several_sizes_hold_one_size_each(tmp_path: Path) -> None:
    """Examples of two sizes, every third one wide: each is found at its place, from memory and from the disk."""
    source = latents_shards.Source("a", "b", (16, 16), 3, "crop", False)
    wide = [i for i in range(50) if i % 3 == 0]
    square = [i for i in range(50) if i % 3]
    shards = latents_shards.plan(source, [((16, 16), square, (2, 4, 4)), ((8, 32), wide, (2, 2, 8))])
    records = []
    for shard in shards:
        moments = torch.stack([torch.full(shard.shape, float(i)) for i in shard.indices])[None]
        data, record = latents_shards.pack(source.key, shard, moments, torch.tensor(list(shard.indices)), 0.0)
        assert latents_shards.unpack(data, "x", source.key, shard) == record
        (tmp_path / shard.file).write_bytes(data)
        records.append(record)
    (tmp_path / MANIFEST).write_text(json.dumps(latents_shards.manifest(source, records)))
    for keep in (0, 1 << 30):
        cache = Cache.find(str(tmp_path), source, keep)
        assert cache is not None and len(cache) == 50
        for i in range(50):
            found = cache.moments(i)
            assert found.shape == ((2, 2, 8) if i % 3 == 0 else (2, 4, 4)) and bool((found == i).all())
            assert cache.source(i) == i
    with pytest.raises(CheckpointError, match="made from something else"):
        read_manifest(str(tmp_path), attrs.evolve(source, data="c"))
    assert Cache.find(str(tmp_path), attrs.evolve(source, data="c"), 0) is None


def test_moments_that_do_not_fit_a_number_type_are_refused() -> None:
    shard = latents_shards.Shard(0, range(1), (1, 1), (1, 1, 1))
    huge = torch.full((1, 1, 1, 1, 1), 1e6).to(torch.float16)
    with pytest.raises(CheckpointError, match="latents_dtype=fp32"):
        latents_shards.pack("k", shard, huge, torch.zeros(1, dtype=torch.int64), 0.0)
