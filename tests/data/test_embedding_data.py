"""Embeddings in stored data: where they lie, how wide they are, what is refused by name; and given for sampling."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset, split_path
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.cli.inputs import read_inputs
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.mixture import Mixture
from ldm_core.data.records.dataset import RecordDataset
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, DataError
from ldm_core.model.parts import data_info

PICTURE = images.png_bytes(np.zeros((3, 8, 8), np.uint8))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def stored(kind: str, folder: Path, files: dict[str, bytes], **settings: Any) -> RecordDataset:
    folder.mkdir(exist_ok=True)
    if kind == "folder":
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return FolderDataset(FolderConfig(url=str(folder), **settings), Site(size=(8, 8)))
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return TarDataset(TarConfig(url=str(folder / "a.tar"), **settings), Site(size=(8, 8)))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_arrays_beside_pictures(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(5,)).astype(np.float16), rng.normal(size=(3, 5)).astype(">f8")]
    files = {"a.png": PICTURE, "b.png": PICTURE}
    files |= {f"{n}.embedding.npy": npy(v) for n, v in zip("ab", vectors, strict=True)}
    data = stored(kind, tmp_path / kind, files)
    assert data.keys["embedding"] == "value" and data_info(data).widths == {"embedding": 5}
    for i, vector in enumerate(vectors):
        found = data.select(["embedding"])[i]["embedding"]
        assert found.dtype == np.float32 and np.array_equal(found, vector.astype(np.float32))
    assert data.select(["image"]).widths == {}
    mixed = Mixture([("x", data, None), ("y", data, None)])
    assert data_info(mixed).widths == {"embedding": 5}
    assert np.array_equal(mixed.select(["embedding"])[3]["embedding"], vectors[1].astype(np.float32))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_other_places(kind: str, tmp_path: Path) -> None:
    vector = np.array([1, 2, 3], np.float32)
    plain = stored(kind, tmp_path / "plain", {"a.png": PICTURE, "a.npy": npy(vector)}, read={"embedding": "npy"})
    assert np.array_equal(plain[0]["embedding"], vector) and plain.widths == {"embedding": 3}
    # An array by any name but the agreed one is not opened unless it is asked for.
    assert "embedding" not in stored(kind, tmp_path / "unasked", {"a.png": PICTURE, "a.npy": b"no array"}).keys
    text = json.dumps({"embedding": [1, 2.5]}).encode()
    listed = stored(kind, tmp_path / "json", {"a.png": PICTURE, "a.json": text}, read={"embedding": "embedding"})
    assert listed[0]["embedding"].tolist() == [1, 2.5] and listed.widths == {}
    other = (
        stored(kind, tmp_path / "other", {"a.png": PICTURE, "a.pose.npy": npy(np.eye(2))}, read={"pose": "pose.npy"})
        if kind == "tar"
        else None
    )
    assert other is None or np.array_equal(other[0]["pose"], np.eye(2))
    assert split_path("cats/a.embedding.npy") == ("cats/a", "embedding.npy")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (npy(np.array([1, np.nan], np.float32)), "not finite"),
        (npy(np.array([1e300], np.float64)), "not finite in float32"),
        (npy(np.array([1, 2], np.float32))[:-1], "and 7 are there"),
        (npy(np.array([1, 2], np.int64)), "of floats, got an array of int64"),
        (npy(np.zeros((2, 2, 2), np.float32)), r"shape \(2, 2, 2\)"),
        (npy(np.zeros((0, 2), np.float32)), r"shape \(0, 2\)"),
        (b"text", "no array in NumPy's format"),
    ],
)
def test_a_bad_array_is_a_bad_example(tmp_path: Path, data: bytes, why: str) -> None:
    read = stored("folder", tmp_path / "x", {"a.png": PICTURE, "a.embedding.npy": data}).select(["embedding"])
    with pytest.raises(BadExample, match=rf"(?s)^a\.png: embedding: .*{why}"):
        _ = read[0]


def test_arrays_for_sampling(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(npy(np.array([[1, 2]], np.float32)))
    assert read_inputs([f"embedding=@{tmp_path}/v.npy"])["embedding"].tolist() == [[1, 2]]
    assert read_inputs(["embedding=[1, 2.5]"])["embedding"].tolist() == [1, 2.5]
    with pytest.raises(ConfigError, match=r"expected a file, such as embedding=@v\.npy"):
        read_inputs(["embedding=v.npy"])
    (tmp_path / "w.npy").write_bytes(npy(np.array([[1, 2]], np.float32))[:-1])
    with pytest.raises(DataError, match=r"w\.npy: its header says 1x2 of float32, 8 bytes, and 7 are there"):
        read_inputs([f"embedding=@{tmp_path}/w.npy"])
