"""The images' moments, encoded once by a frozen first stage, read back by place and checked on reading.

The cache has moments, not one draw of them, so each epoch draws its own latents. A cache is a folder named by the key
of all its causes, in the run's folder or in ``trainer.latents``; see :mod:`.shards` for its files and :mod:`.encode`
for its making.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from ldm_core import storage
from ldm_core.errors import CheckpointError, DataError
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.order import Place
from ldm_core.training.latents.shards import DTYPES, Source, read_manifest

_REPAIR = "delete it and run the same command again: it alone is encoded anew"


def source_of(recipe: Recipe, first_stage_sha256: str, data: str) -> Source:
    """The source of a run's moments; `data` is the fingerprint of its training data."""
    return Source(
        first_stage_sha256=first_stage_sha256,
        data=data,
        image_size=recipe.image_size,
        image_channels=recipe.image_channels,
        fit=recipe.data.fit,
        flip=recipe.data.flip,
        buckets=recipe.data.buckets,
        dtype=recipe.trainer.latents_dtype,
    )


def obstacle(recipe: Recipe) -> str:
    """The reason why this recipe's images cannot be encoded once, or ""."""
    if recipe.data.crop == "random":
        return "data.crop=random cuts each image another way each epoch"
    return ""


def folder_of(recipe: Recipe, out: str, key: str) -> str:
    """Give the folder of the moments of `key`: under ``trainer.latents``, or in the run's own folder."""
    return storage.join(recipe.trainer.latents or storage.join(out, "latents"), key[:16])


def place_of(recipe: Recipe, out: str, first_stage_sha256: str, prints: Sequence[str]) -> tuple[str, Source]:
    """The folder of the moments, and their source; `prints`: possible fingerprints of the data, of which the first is
    taken if none has a folder yet."""
    sources = [source_of(recipe, first_stage_sha256, each) for each in dict.fromkeys(prints)]
    places = [(folder_of(recipe, out, source.key), source) for source in sources]
    return places[0] if len(places) == 1 else next((p for p in places if storage.exists(p[0])), places[0])


class Cache:
    """The finished moments in `folder`, by index and mirroring.

    Small ones (`keep` bytes) are in memory; others are read one by one from their files, so they may be larger than
    memory. Loader workers may have a copy. :class:`CheckpointError` naming the shard if the read data is damaged.
    """

    def __init__(self, folder: str, manifest: Mapping[str, Any], keep: int) -> None:
        self._folder, self._shards = folder, manifest["shards"]
        self._dtype, self._flips = DTYPES[manifest["dtype"]], int(manifest["flips"])
        self._count = int(manifest["count"])
        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._moments: list[Tensor] = []
        self._starts = [s["first"] for s in self._shards]
        self._places: np.ndarray | None = None
        if manifest["bytes"] <= keep:
            self._moments = [self._whole(number) for number in range(len(self._shards))]
        if None in self._starts:  # shards of one image size each: their examples are scattered over the data
            self._places = np.zeros((self._count, 2), dtype=np.int64)
            for number, shard in enumerate(self._shards):
                indices = self._read(number, "indices", np.int64, (shard["count"],))
                self._places[indices] = np.stack([np.full(len(indices), number), np.arange(len(indices))], axis=1)

    @classmethod
    def find(cls, folder: str, source: Source, keep: int) -> Cache | None:
        """The cache in `folder`, None without a finished one made from `source`."""
        try:
            manifest = read_manifest(folder, source)
        except CheckpointError:
            return None
        return None if manifest is None else cls(folder, manifest, keep)

    def __len__(self) -> int:
        return self._count

    def moments(self, index: int, flip: bool = False) -> Tensor:
        """The moments (M, *s) of example `index`, float32."""
        if flip and self._flips == 1:
            raise CheckpointError(f"{storage.shown(self._folder)} holds no mirrored moments")
        number, row = self._place(index)
        if self._moments:
            return self._moments[number][int(flip), row].float()
        shard = self._shards[number]
        size = int(np.prod(shard["shape"])) * self._dtype.itemsize
        start = shard["at"]["moments"] + (int(flip) * shard["count"] + row) * size
        data = bytearray(storage.read_bytes(self._url(number), start, start + size))
        if zlib.crc32(data) != int(self._table(number)[1][int(flip), row]):
            raise CheckpointError(f"{storage.shown(self._url(number))} is damaged at example {index}; {_REPAIR}")
        return torch.frombuffer(data, dtype=self._dtype).reshape(shard["shape"]).float()

    def source(self, index: int) -> int:
        """The example found at `index`: another one if its own was unreadable."""
        number, row = self._place(index)
        return int(self._table(number)[0][row])

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._places is not None:
            number, row = self._places[index]
            return int(number), int(row)
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def _url(self, number: int) -> str:
        return storage.join(self._folder, self._shards[number]["file"])

    def _table(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A shard's `sources` (n,) and `crc` (flips, n)."""
        if number not in self._tables:
            count = self._shards[number]["count"]
            sources = self._read(number, "sources", np.int64, (count,))
            self._tables[number] = sources, self._read(number, "crc", np.int64, (self._flips, count))
        return self._tables[number]

    def _read(self, number: int, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        start = self._shards[number]["at"][name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = storage.read_bytes(self._url(number), start, start + size)
        if len(data) != size:
            raise CheckpointError(f"{storage.shown(self._url(number))} was cut short; {_REPAIR}")
        return np.frombuffer(data, dtype=dtype).reshape(shape)

    def _whole(self, number: int) -> Tensor:
        data = storage.read_bytes(self._url(number))
        if hashlib.sha256(data).hexdigest() != self._shards[number]["sha256"]:
            raise CheckpointError(f"{storage.shown(self._url(number))} is damaged; {_REPAIR}")
        tensors = load(data)
        self._tables[number] = tensors["sources"].numpy(), tensors["crc"].numpy()
        return tensors["moments"]


class LatentExamples:
    """The denoiser's examples: moments from the cache, and the conditioners' keys."""

    def __init__(self, cache: Cache, examples: Examples | None) -> None:
        self._cache, self._examples = cache, examples
        self.keys: Mapping[str, str] = {**(examples.keys if examples else {}), "moments": "value"}

    def __len__(self) -> int:
        return len(self._cache)

    def __call__(self, place: Place) -> Mapping[str, Any]:
        """The example at `place`."""
        moments = self._cache.moments(place.index, place.flip)
        if self._examples is None:
            return {"moments": moments}
        index = self._cache.source(place.index)
        example, stands = self._beside(place, index)
        if stands != index:
            moments, example = self._instead(place, moments, example, stands)
        return {**example, "moments": moments}

    def _beside(self, place: Place, index: int) -> tuple[Mapping[str, Any], int]:
        """The data beside the image of example `index`, and the index of its example: the next readable one."""
        assert self._examples is not None
        example = self._examples[attrs.evolve(place, index=index)]
        return example, self._examples.dataset.moved.get(index, index)

    def _instead(
        self, place: Place, moments: Tensor, example: Mapping[str, Any], stands: int
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """Moments and the rest of one example, of the size of `moments`, if the example `stands` replaced the place's
        own: its image may be unreadable or of another size."""
        for _ in range(len(self)):
            index = self._cache.source(stands)
            own = self._cache.moments(index, place.flip)
            if index == stands and own.shape == moments.shape:
                return own, example
            example, stands = self._beside(place, index if index != stands else (stands + 1) % len(self))
        raise DataError("no example can be read with all that the conditioners read; repair the data")
