"""Several captions of one picture: one is drawn in each epoch, the same one for the same seed, epoch and example."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.mixture import Mixture
from ldm_core.data.records.sources import Captions
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.denoiser.fit import _each_caption
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import Examples, arrange
from ldm_core.training.feed.loader import Loader
from ldm_core.training.feed.order import Order

TEXTS = [["one", "two", "three"], ["a", "b"], ["alone"], ["x", "y", "z", "w"]]


def data(folder: Path) -> FolderDataset:
    for i, texts in enumerate(TEXTS):
        (folder / f"{i}.png").write_bytes(images.png_bytes(np.full((3, 8, 8), i, dtype=np.uint8)))
        (folder / f"{i}.json").write_text(json.dumps({"caption": texts if len(texts) > 1 else texts[0]}))
    return FolderDataset(FolderConfig(url=str(folder)), Site(size=(8, 8)))


def drawn(examples: Examples, seed: int, epochs: int) -> list[tuple[int, str]]:
    order = Order(arrange(examples.dataset.dataset, DataSettings(), (8, 8)), seed)
    places = [order.place(position) for position in range(epochs * len(TEXTS))]
    return [(place.index, examples[place]["caption"]) for place in places]


@pytest.mark.parametrize("settings", [DataSettings(), DataSettings(keep=0), DataSettings(crop="random")])
def test_each_epoch_draws_one(settings: DataSettings, tmp_path: Path) -> None:
    examples = Examples(data(tmp_path), (8, 8), settings, ["image", "caption"])
    found = drawn(examples, 1, 200)
    assert found == drawn(examples, 1, 200) and all(type(text) is str for _, text in found)
    for index, texts in enumerate(TEXTS):
        counts = Counter(text for i, text in found if i == index)
        assert set(counts) == set(texts) and min(counts.values()) > 120 / len(texts)
    assert found != drawn(examples, 2, 200)
    assert examples[0]["caption"] == "one", "held-out data always shows the first"


def test_loaders_draw_alike_in_workers_and_after_a_resume(tmp_path: Path) -> None:
    examples = Examples(data(tmp_path), (8, 8), DataSettings(), ["image", "caption"])
    world = World(0, 1, torch.device("cpu"))

    def batches(start: int, workers: int) -> list[list[str]]:
        loader = Loader(
            examples, examples.arrangement, examples.keys, images_per_step=2, accumulate=1, steps=8, world=world,
            seed=5, workers=workers,
        )  # fmt: skip
        return [list(micro.batch["caption"]) for micros in loader.steps(start) for micro in micros]

    assert batches(0, 0)[3:] == batches(3, 0) and batches(0, 1) == batches(0, 0)
    assert len({text for batch in batches(0, 0) for text in batch}) > len(TEXTS)


def test_mixtures_and_copies_keep_all_of_them(tmp_path: Path) -> None:
    mixed = Mixture([("m", data(tmp_path), None)])
    assert mixed.many_captions
    assert mixed[0]["caption"] == "one" and pickle.loads(pickle.dumps(mixed[0]["caption"])).texts == tuple(TEXTS[0])
    assert Examples(mixed, (8, 8), DataSettings(), ["caption"]).arrangement.captions
    assert not Examples(mixed, (8, 8), DataSettings(), ["image"]).arrangement.captions


def test_a_vocabulary_is_learned_of_all() -> None:
    examples: list[dict[str, Any]] = [{"caption": Captions(["a", "b"])}, {"caption": "c"}, {"x": 1}]
    assert [e.get("caption") for e in _each_caption(examples)] == ["a", "b", "c", None]
