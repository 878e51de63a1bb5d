"""Parquet files for tests, written by pyarrow as Hugging Face's ``datasets`` writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ("cat", "dog", "owl")


def pixels(seed: int, height: int = 8, width: int = 6) -> NDArray[np.uint8]:
    """A picture of noise, uint8 (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array: NDArray[np.uint8]) -> bytes:
    """The bytes of a picture's file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def features(**more: Any) -> dict[str, Any]:
    """The features of pictures with captions and named classes, as ``datasets`` has them."""
    return {
        "image": {"_type": "Image"},
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": list(NAMES), "_type": "ClassLabel"},
        **more,
    }


def rows(first: int, count: int) -> dict[str, list[Any]]:
    """Columns of `count` rows, each told apart by its number."""
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": png(pixels(n)), "path": f"{n}.png"} for n in numbers],
        "text": [f"picture {n}" for n in numbers],
        "label": [n % 3 for n in numbers],
    }


def write(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    types: Mapping[str, pa.DataType] | None = None,
    *,
    named: Mapping[str, Any] | None = None,
    group: int = 3,
    **more: Any,
) -> Path:
    """Write a file with row groups of `group` rows, and `named` features in its schema."""
    kinds = {"image": IMAGE, "text": pa.string(), "label": pa.int64(), **(types or {})}
    fields = [(name, kinds.get(name, pa.array(values).type)) for name, values in columns.items()]
    schema = pa.schema(fields)
    if named is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": named}})})
    arrays = [pa.array(values, kind) for values, (_, kind) in zip(columns.values(), fields, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, schema=schema), path, row_group_size=group, **more)
    return path


def two_shards(folder: Path) -> Path:
    """Seven and five rows of a split train, and two of a split test."""
    write(folder / "train-00000-of-00002.parquet", rows(0, 7), named=features())
    write(folder / "train-00001-of-00002.parquet", rows(7, 5), named=features())
    write(folder / "test-00000-of-00001.parquet", rows(100, 2), named=features())
    return folder
