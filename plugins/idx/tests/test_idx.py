"""IDX files: hand-written ones read back, the conformance kit, the choice of the reader, and what is refused."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ldm_plugin_idx.config import IdxConfig
from ldm_plugin_idx.dataset import IdxDataset

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import Site
from ldm_core.data.class_names import labels_of
from ldm_core.data.records.guess import guess_reader
from ldm_core.errors import DataError, NoSplit
from ldm_core.testing import DatasetSuite, PluginSuite

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "fashion_mnist"
SITE = Site(size=(32, 32))


def idx(array: Any, kind: int = 8, header: Any = None) -> bytes:
    array = np.asarray(array)
    shape = array.shape if header is None else header
    sizes = b"".join(int(n).to_bytes(4, "big") for n in shape)
    return bytes([0, 0, kind, len(shape)]) + sizes + array.astype(np.uint8).tobytes()


def pictures(count: int = 6, seed: int = 0, shape: tuple[int, int] = (28, 28)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def fill(folder: Path, *, packed: bool = True, prefix: str = "", shape: tuple[int, int] = (28, 28)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    suffix, pack = (".gz", gzip.compress) if packed else ("", bytes)
    for name, count, seed in (("train", 6, 0), ("t10k", 3, 1)):
        images, labels = idx(pictures(count, seed, shape)), idx(np.arange(count) % 3)
        (folder / f"{prefix}{name}-images-idx3-ubyte{suffix}").write_bytes(pack(images))
        (folder / f"{prefix}{name}-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    return folder


def opened(url: Path, **settings: Any) -> IdxDataset:
    return IdxDataset(IdxConfig(url=str(url), **settings), SITE)


class TestPlugin(PluginSuite):
    module = "ldm_plugin_idx.plugin"


class TestIdx(DatasetSuite):
    component = "idx"
    other_settings: ClassVar[Mapping[str, Any] | None] = {"border": 9}

    def make_data(self, folder: Path) -> Mapping[str, Any]:
        return {"url": str(fill(folder))}


@pytest.mark.parametrize("packed", [True, False])
def test_pictures_come_back_in_a_border_of_black(tmp_path: Path, packed: bool) -> None:
    data = opened(fill(tmp_path, packed=packed))
    for i, picture in enumerate(pictures()):
        example = data[i]
        assert example["image"].shape == (3, 32, 32) and example["class_label"] == i % 3
        assert all(np.array_equal(plane[2:30, 2:30], picture) for plane in example["image"])
        rim = example["image"].copy()
        rim[:, 2:30, 2:30] = 0
        assert not rim.any()
    assert "6 grey pictures of 28x28, with a border 32x32, 3 classes" in data.describe()
    assert labels_of(data, "class_label").tolist() == [0, 1, 2, 0, 1, 2]
    held_out = opened(tmp_path, split="val")
    assert len(held_out) == 3 and np.array_equal(held_out[2]["image"][0, 2:30, 2:30], pictures(3, 1)[2])
    assert held_out.counted({"class_label": 5}).classes == {"class_label": 5}
    assert len(opened(tmp_path, split="test")) == 3


def test_settings_and_grey_models(tmp_path: Path) -> None:
    fill(tmp_path, shape=(20, 28))
    plain = opened(tmp_path, multiple=1)
    assert plain[0]["image"].shape == (3, 20, 28) and plain.image_size(0) == (20, 28)
    turned = IdxDataset(IdxConfig(url=str(tmp_path), transpose=True, border=7), Site(size=(32, 32), channels=1))
    image = turned[1]["image"]
    assert image.shape == (1, 32, 24) and np.array_equal(image[0, 2:30, 2:22], pictures(6, 0, (20, 28))[1].T)
    assert image[0, 0, 0] == 7 and turned.fingerprint() != plain.fingerprint()
    copy = tmp_path / "elsewhere"
    assert opened(fill(copy, shape=(20, 28)), multiple=1).fingerprint() == plain.fingerprint()
    again = pickle.loads(pickle.dumps(plain))
    assert np.array_equal(again[5]["image"], plain[5]["image"])


def test_class_names_and_several_sets_in_one_folder(tmp_path: Path) -> None:
    fill(tmp_path, prefix="emnist-a-")
    (tmp_path / "classes.json").write_text(json.dumps(["x", "y", "z"]))
    assert opened(tmp_path).class_names == {"class_label": ("x", "y", "z")}
    assert opened(tmp_path).select(["image"]).class_names == {}
    fill(tmp_path, prefix="emnist-b-", shape=(8, 8))
    with pytest.raises(DataError, match=r"several sets \(emnist-a-, emnist-b-\); give the file of images of one"):
        opened(tmp_path)
    one = opened(tmp_path / "emnist-b-train-images-idx3-ubyte.gz")
    assert one[0]["image"].shape == (3, 8, 8)
    (tmp_path / "classes.json").write_text(json.dumps(["x", "y"]))
    with pytest.raises(DataError, match="names 2 classes, and a label is 2"):
        opened(tmp_path / "emnist-b-train-images-idx3-ubyte.gz")


def test_data_takes_this_reader_where_only_such_files_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = Catalog.discover()
    folder = fill(tmp_path / "a")
    (folder / "README.md").write_text("about")
    assert guess_reader(str(folder), catalog) == "idx"
    assert guess_reader(str(folder / "train-images-idx3-ubyte.gz"), catalog) == "idx"
    assert guess_reader(str(folder)) == "folder"  # as a caller without a catalog always had it
    assert main(["check", "--data", str(folder), "--cond", "class_label", "image_size=32"]) == 0
    assert "use: idx" in capsys.readouterr().out
    (folder / "a.png").write_bytes(b"")
    assert guess_reader(str(folder), catalog) == "folder"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(pictures()))[:-200], "damaged or cut short"),
        ("train-images-idx3-ubyte.gz", idx(pictures(), header=(7, 28, 28)), "says 7 x 28 x 28 bytes, and there are 4"),
        ("train-images-idx3-ubyte.gz", idx(pictures(), header=(5, 28, 28)), "and there are more"),
        ("train-images-idx3-ubyte.gz", idx(pictures(), header=(1 << 31, 1 << 31, 1)), "at most"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((0, 28, 28))), "says a size of 0"),
        ("train-images-idx3-ubyte.gz", idx(pictures(), kind=13), "holds float32 of 3 axes, and 3 axes of bytes"),
        ("train-images-idx3-ubyte.gz", idx(pictures()[0]), "holds bytes of 2 axes"),
        ("train-images-idx3-ubyte.gz", b"GIF89a", "is no IDX file"),
        ("train-images-idx3-ubyte.gz", b"\0\0\x08\x03\0", "cut short"),
        ("train-labels-idx1-ubyte.gz", idx(np.arange(4)), "4 labels for 6 pictures"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros(9), header=(1, 3, 3)) + bytes(1 << 24)), "more"),
    ],
)
def test_other_and_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    fill(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        opened(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no IDX files; looked for names such as"):
        opened(tmp_path)
    fill(tmp_path)
    for place in (tmp_path / "typo", tmp_path / "none-train-images-idx3-ubyte"):
        with pytest.raises(DataError, match="is no folder and no file such as"):
            opened(place)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(NoSplit, match="no split 'val'; there are files of train"):
        opened(tmp_path, split="val")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    bare = opened(tmp_path)
    assert set(bare.keys) == {"image", "name"}
    with pytest.raises(DataError, match="IDX files have no 'class_label'"):
        bare.select(["class_label"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the project")
def test_fashion_mnist() -> None:
    data = opened(SHARED)
    assert len(data) == 60_000 and len(opened(SHARED, split="val")) == 10_000
    assert data.class_names["class_label"][0].startswith("T-shirt")
    assert np.bincount(labels_of(data, "class_label")).tolist() == [6000] * 10
