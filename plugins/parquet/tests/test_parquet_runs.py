"""Runs and commands on Parquet files: here, in remote storage, on the Hub; and files of ``datasets`` itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer, hub
from ldm_plugin_parquet.config import ParquetConfig
from ldm_plugin_parquet.dataset import ParquetDataset
from parquet_files import NAMES, pixels, two_shards
from ranks import on_ranks
from training_runs import Watch, go, weights

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import Site
from ldm_core.data.records.guess import guess_reader
from ldm_core.errors import Interrupted, StorageError
from ldm_core.storage.cache import DataCache
from ldm_core.storage.options import StorageSettings

__all__ = ["hub"]


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    storage.configure(StorageSettings(connect_timeout=5, read_timeout=5, retries=0))
    yield
    storage.configure(None)


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def train(data: Path, out: Path, *overrides: str, stop: int = 0, **of_data: Any) -> None:
    """Train the tiny model on classes."""
    own = {"use": "parquet", "url": str(data), **of_data}
    watch = Watch(stop=("denoiser", stop)) if stop else None
    cut = ["trainer.steps=4", "trainer.images_per_step=2", "first_stage_trainer.statistics_images=4"]
    stages = ("first_stage", "denoiser")
    conditioners = [{"use": "class_label", "width": 8}]
    go(out, *cut, *overrides, watch=watch, stages=stages, dataset=own, conditioners=conditioners, observers=[])


def test_a_stopped_run_ends_with_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    """With row groups that are read anew for each example."""
    data = two_shards(tmp_path / "data")
    train(data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(data, tmp_path / "halves", stop=2, keep_bytes=0)
    train(data, tmp_path / "halves", keep_bytes=0)
    assert equal(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.slow
def test_worker_processes_change_no_bit(tmp_path: Path) -> None:
    data = two_shards(tmp_path / "data")
    train(data, tmp_path / "here")
    train(data, tmp_path / "workers", "data.workers=2")
    assert equal(tmp_path / "here", tmp_path / "workers")


@pytest.mark.slow
def test_two_processes_train_the_same_model(tmp_path: Path) -> None:
    data = two_shards(tmp_path / "data")
    train(data, tmp_path / "one")
    script = tmp_path / "main.py"
    script.write_text(
        "from pathlib import Path\nfrom test_parquet_runs import train\n"
        f"train(Path({str(data)!r}), Path({str(tmp_path / 'two')!r}))\n"
    )
    on_ranks(script, paths=[str(Path(__file__).parent)])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-5


def test_the_command_that_looks_into_data_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_shards(tmp_path)
    assert main(["data", str(tmp_path), "--cond", "class_label", "--sheet", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "(parquet): 12 pictures, and 2 held out" in out and "image, caption, class_label, name" in out
    assert "cat 4" in out and "8x6" not in out and "6x8" in out
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def read(url: str, cache: DataCache | None = None, **settings: Any) -> ParquetDataset:
    return ParquetDataset(ParquetConfig(url=url, **settings), Site(size=(8, 8), cache=cache))


def require_rows(data: ParquetDataset) -> None:
    for index in (11, 0, 7):
        example = data[index]
        assert np.array_equal(example["image"], pixels(index).transpose(2, 0, 1))
        assert example["caption"] == f"picture {index}"


@pytest.mark.parametrize("kept", [False, True])
def test_remote_files_are_read_by_their_parts(tmp_path: Path, kept: bool) -> None:
    two_shards(tmp_path / "data")
    root = f"memory://parquet-{kept}"
    for file in (tmp_path / "data").iterdir():
        storage.atomic_write(f"{root}/{file.name}", file.read_bytes())
    cache = DataCache(str(tmp_path / "copies"), 1 << 24) if kept else None
    data = read(root, cache)
    require_rows(data)
    local = read(str(tmp_path / "data"))
    assert [s.footer for s in data._rows._files.shards] == [s.footer for s in local._rows._files.shards]
    assert guess_reader(f"{root}/train-*.parquet", Catalog.discover()) == "parquet"
    storage.remove(root, recursive=True)


def test_a_repository_on_the_hub_is_data(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_shards(tmp_path)
    files = {f"data/{file.name}": file.read_bytes() for file in tmp_path.iterdir()}
    hub.add("me/pets", {"README.md": b"# pets", ".gitattributes": b"", **files}, kind="datasets")
    url = "hf://datasets/me/pets"
    assert guess_reader(url, Catalog.discover()) == "parquet"
    require_rows(read(url))
    require_rows(read(f"{url}/data/train-*.parquet"))
    longest = max(map(len, files.values()))
    spans = [tuple(map(int, span.removeprefix("bytes=").split("-"))) for span in hub.ranges]
    assert all(stop - start < longest for start, stop in spans), "no file is fetched whole"
    assert main(["data", url]) == 0
    assert "12 pictures, and 2 held out" in capsys.readouterr().out
    hub.repositories["datasets", "me/pets"].token = "hf_right"
    with pytest.raises(StorageError, match="the Hub shows no such data set"):
        read(url)


def test_files_that_datasets_writes(tmp_path: Path) -> None:
    """Hugging Face's own library as the oracle: its files, and its reading of them (the extra `oracle`)."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (ldm-plugin-parquet[oracle])")
    from PIL import Image

    columns = {
        "image": [Image.fromarray(pixels(n)) for n in range(5)],
        "text": [f"picture {n}" for n in range(5)],
        "label": [n % 3 for n in range(5)],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    path = tmp_path / "train-00000-of-00001.parquet"
    made.to_parquet(str(path))
    data = read(str(tmp_path))
    assert dict(data.class_names) == {"class_label": tuple(made.features["label"].names)} and len(data) == len(made)
    again = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    for index, row in enumerate(again):
        assert np.array_equal(data[index]["image"], np.asarray(row["image"]).transpose(2, 0, 1))
        assert (data[index]["caption"], data[index]["class_label"]) == (row["text"], row["label"])
