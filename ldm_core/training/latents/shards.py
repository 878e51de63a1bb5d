"""Shards of encoded images: the examples of each, its file, and the manifest of all.

A shard is a safetensors file: ``moments`` (flips, n, M, *s), ``indices`` and ``sources`` (n,), and ``crc`` (flips, n),
the CRC-32 of each example's bytes, so a single example can be read and checked alone. The examples of a shard and its
groups of images encoded together follow from the data alone, not from the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.config.structure import digest
from ldm_core.errors import CheckpointError
from ldm_core.storage.paths import is_name

FORMAT = 1
MANIFEST = "manifest.json"
BATCH = 32
"""Images encoded together, counted from the beginning of their shard."""
SHARD_BYTES = 64 << 20
"""The most bytes of moments in a shard; a killed process loses less."""
SPREAD = 16
"""The number of shards for small data, so several processes have a share."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_KIND = "moments"
_MOST_VALUES = 100_000_000  # of a manifest: some dozens a shard


@attrs.frozen
class Source:
    """All causes of the moments: the first stage's weights, the data, the preparation of an image, and the stored form.
    :attr:`key` is its hash; moments of another key are never used."""

    first_stage_sha256: str
    data: str
    image_size: tuple[int, int]
    image_channels: int
    fit: str
    flip: bool
    buckets: tuple[tuple[int, int], ...] = ()
    dtype: str = "fp32"

    @property
    def key(self) -> str:
        """64 hex digits; the first 16 name the moments' folder."""
        return digest({"format": FORMAT, **attrs.asdict(self)})

    @property
    def flips(self) -> int:
        """The number of times each example is there: mirrored too if `flip` is set."""
        return 2 if self.flip else 1


@attrs.frozen(eq=False)
class Shard:
    """Shard `number` of the examples `indices`, all of image size `size`; their moments have the shape `shape`."""

    number: int
    indices: Sequence[int]
    size: tuple[int, int]
    shape: tuple[int, ...]

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"shard-{self.number:05d}.safetensors"

    def batches(self) -> list[Sequence[int]]:
        """The examples encoded together."""
        return [self.indices[i : i + BATCH] for i in range(0, len(self.indices), BATCH)]


def plan(source: Source, groups: Sequence[tuple[tuple[int, int], Sequence[int], tuple[int, ...]]]) -> list[Shard]:
    """The shards of (image size, its examples, shape of their moments), given for each size."""
    each = DTYPES[source.dtype].itemsize * source.flips
    total = sum(len(indices) for _, indices, _ in groups)
    out: list[Shard] = []
    for size, indices, shape in groups:
        count = max(BATCH, -(-total // SPREAD))
        count = min(-(-count // BATCH) * BATCH, max(1, SHARD_BYTES // (each * int(np.prod(shape)))))
        count = count // BATCH * BATCH or count
        for start in range(0, len(indices), count):
            out.append(Shard(len(out), indices[start : start + count], size, shape))
    return out


def pack(key: str, shard: Shard, moments: Tensor, sources: Tensor, lost: float) -> tuple[bytes, dict[str, Any]]:
    """A shard's file and its record for the manifest. `lost`: the rounding loss to `moments`' type, a sum of squares
    over all values."""
    if not bool(torch.isfinite(moments).all()):
        raise CheckpointError(
            f"moments of {shard.file} are not finite as {moments.dtype}; use trainer.latents_dtype=fp32, or check the "
            "first stage"
        )
    rows = moments.contiguous().view(torch.uint8).reshape(*moments.shape[:2], -1).numpy()
    crc = torch.tensor([[zlib.crc32(row.tobytes()) for row in flip] for flip in rows], dtype=torch.int64)
    tensors = {
        "moments": moments.contiguous(),
        "indices": torch.as_tensor(np.asarray(shard.indices, dtype=np.int64)),
        "sources": sources,
        "crc": crc,
    }
    body = {
        "format": FORMAT,
        "kind": _KIND,
        "key": key,
        "shard": shard.number,
        "image_size": list(shard.size),
        "statistics": _statistics(moments, lost),
        "sha256": _content(tensors),
    }
    data = save(tensors, metadata={"ldm_core": json.dumps(body, sort_keys=True)})
    return data, record(data, body, tensors)


def unpack(data: bytes, where: str, key: str, shard: Shard) -> dict[str, Any]:
    """The record of a found shard's file; :class:`CheckpointError` if it is damaged or another one."""
    try:
        tensors = load(data)
        body = parse_json(_header(data)["__metadata__"]["ldm_core"], "its header", ValueError)
        same = body["key"] == key and body["shard"] == shard.number and body["format"] == FORMAT
        sound = same and body["sha256"] == _content(tensors)
        fits = tensors["indices"].tolist() == list(shard.indices)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{storage.shown(where)} is damaged ({type(error).__name__})") from None
    if not same or not fits:
        raise CheckpointError(f"{storage.shown(where)} was made from something else")
    if not sound:
        raise CheckpointError(f"{storage.shown(where)} is damaged (its content does not match its hash)")
    return record(data, body, tensors)


def record(data: bytes, body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The manifest's record of a shard: its file, size and hash, its tensors' places, its examples."""
    header = _header(data)
    start = 8 + int.from_bytes(data[:8], "little")
    indices, sources = tensors["indices"], tensors["sources"]
    first = int(indices[0])
    whole = bool((indices == torch.arange(first, first + len(indices))).all())
    return {
        "file": f"shard-{body['shard']:05d}.safetensors",
        "number": body["shard"],
        "count": len(indices),
        "first": first if whole else None,
        "image_size": body["image_size"],
        "shape": list(tensors["moments"].shape[2:]),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "at": {k: start + int(v["data_offsets"][0]) for k, v in header.items() if k != "__metadata__"},
        "replaced": int((sources != indices).sum()),
        "statistics": body["statistics"],
    }


def manifest(source: Source, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole cache in one mapping: its source, its shards, totals, and the moments' statistics."""
    ordered = sorted(records, key=lambda r: r["number"])
    return {
        "format": FORMAT,
        "kind": _KIND,
        "key": source.key,
        "source": attrs.asdict(source),
        "count": sum(r["count"] for r in ordered),
        "flips": source.flips,
        "dtype": source.dtype,
        "bytes": sum(r["bytes"] for r in ordered),
        "replaced": sum(r["replaced"] for r in ordered),
        "statistics": merged([r["statistics"] for r in ordered]),
        "shards": ordered,
    }


def read_manifest(folder: str, source: Source) -> dict[str, Any] | None:
    """The manifest in `folder`, or None without one; :class:`CheckpointError` if it is unreadable or belongs to
    something else."""
    url = storage.join(folder, MANIFEST)
    if not storage.exists(url):
        return None
    try:
        found = parse_json(storage.read_text(url), "it", ValueError, most=_MOST_VALUES)
        shards = found["shards"]
        good = found["key"] == source.key and found["count"] == sum(s["count"] for s in shards)
        good = good and [s["number"] for s in shards] == list(range(len(shards)))
        good = good and found["dtype"] == source.dtype and found["flips"] == source.flips
        if not all(map(_reads, shards)):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{storage.shown(url)} does not read ({type(error).__name__})") from None
    if not good:
        raise CheckpointError(f"{storage.shown(url)} was made from something else")
    return found  # type: ignore[no-any-return]


def _reads(shard: Mapping[str, Any]) -> bool:
    """Say if a shard's record has whole numbers, and a file beside the manifest."""
    first, numbers = shard["first"], (shard["count"], shard["bytes"], *shard["shape"], *shard["at"].values())
    whole = all(type(n) is int and 0 <= n < 1 << 62 for n in (*numbers, 0 if first is None else first))
    return whole and is_name(shard["file"]) and len(shard["shape"]) <= 8


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of all shards from those of each: mean, std, min and max of each channel, the rounding loss."""
    values = sum(p["values"] for p in parts)
    total, squares = (np.sum([p[k] for p in parts], axis=0) for k in ("sum", "squares"))
    mean = total / values
    out = {
        "mean": mean,
        "std": np.sqrt(np.maximum(squares / values - mean**2, 0)),
        "min": np.min([p["min"] for p in parts], axis=0),
        "max": np.max([p["max"] for p in parts], axis=0),
    }
    share = sum(p["lost"] for p in parts) / max(float(squares.sum()), 1e-30)
    return {**{k: v.tolist() for k, v in out.items()}, "rounding": float(np.sqrt(share))}


def _statistics(moments: Tensor, lost: float) -> dict[str, Any]:
    by_channel = moments.double().transpose(0, 2).flatten(1)  # (M, everything else)
    return {
        "values": by_channel.shape[1],
        "sum": by_channel.sum(1).tolist(),
        "squares": by_channel.square().sum(1).tolist(),
        "min": by_channel.amin(1).tolist(),
        "max": by_channel.amax(1).tolist(),
        "lost": lost,
    }


def _content(tensors: Mapping[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name in ("moments", "indices", "sources", "crc"):
        hashed.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    return parse_json(data[8 : 8 + length], "its header", ValueError)  # type: ignore[no-any-return]
