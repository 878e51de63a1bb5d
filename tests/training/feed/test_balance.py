"""Classes drawn equally often on request: exact shares, any step by its number, mixtures and several sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from training_runs import Watch, go

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.shapes.config import ShapesConfig
from ldm_core.builtin.shapes.dataset import ShapesDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.class_names import labels_of
from ldm_core.data.mixture import Mixture
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.feed.examples import Examples, arrange, balance_in_words, balanced
from ldm_core.training.feed.order import Arrangement, Order

SITE = Site(size=(8, 8))
COUNTS = {"ant": 20, "bee": 4, "cat": 1}


def folder(base: Path, counts: dict[str, int]) -> FolderDataset:
    for name, count in counts.items():
        (base / name).mkdir(parents=True)
        for i in range(count):
            shape = (3, 8, 8 + 4 * (i % 2))
            (base / name / f"{i}.png").write_bytes(images.png_bytes(np.full(shape, i, dtype=np.uint8)))
    return FolderDataset(FolderConfig(url=str(base)), SITE)


def places(arranged: Arrangement, steps: int, images_per_step: int = 5) -> list[Any]:
    order = Order(arranged, seed=3, images=images_per_step)
    return [place for step in range(steps) for place in order.step(step, range(images_per_step))]


def test_classes_are_drawn_equally_often_and_each_goes_through_its_own_examples(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", COUNTS)
    labels = labels_of(data, "class_label")
    arranged = arrange(data, DataSettings(balance="class_label", crop="random"), (8, 8))
    assert arranged.groups is not None and arranged.groups.tolist() == labels.tolist()
    drawn = places(arranged, 120)
    for end in (30, 77, 600):  # at every moment, and not only in the long run
        counts = Counter(int(labels[p.index]) for p in drawn[:end])
        assert all(abs(counts[k] - end / 3) < 3 for k in range(3))
    per_example = Counter(p.index for p in drawn if labels[p.index] == 0)
    assert set(per_example.values()) == {10} and len(per_example) == 20  # 200 draws of 20 examples
    assert len({(p.epoch, p.index) for p in drawn}) == len(drawn)  # so no random stream or cut comes twice
    assert len({p.crop for p in drawn}) == len(drawn)
    assert "3 classes of 1 to 20 examples" in balance_in_words(arranged.groups, "class_label")


def test_any_step_is_found_by_its_number_and_nothing_changes_without_balance(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", COUNTS)
    arranged = arrange(data, DataSettings(balance="class_label"), (8, 8))
    drawn = places(arranged, 60)
    later = Order(arranged, seed=3, images=5).step(41, range(1, 4))  # of a run that goes on, and of another process
    assert later == drawn[41 * 5 + 1 : 41 * 5 + 4]
    plain = arrange(data, DataSettings(), (8, 8))
    assert plain.groups is None and places(plain, 30) == places(Arrangement(25), 30)


def test_sizes_and_the_parts_of_a_mixture_keep_their_shares(tmp_path: Path) -> None:
    parts = [
        ("a", folder(tmp_path / "a", COUNTS), 3.0),
        ("b", folder(tmp_path / "b", {"bee": 9, "dog": 3}), 1.0),
    ]
    data = Mixture(parts)
    labels = labels_of(data, "class_label")
    assert [data[i]["class_label"] for i in range(len(data))] == labels.tolist()
    settings = DataSettings(balance="class_label", buckets=((8, 12),))
    drawn = places(arrange(data, settings, (8, 8)), 400, 4)
    first = [p for p in drawn if p.index < 25]
    assert abs(len(first) / len(drawn) - 0.75) < 0.01
    assert {p.size for p in drawn} == {(8, 8), (8, 12)}
    for part, kinds in ((first, 3), ([p for p in drawn if p.index >= 25], 2)):
        counts = Counter(int(labels[p.index]) for p in part)
        assert len(counts) == kinds and all(abs(n / len(part) - 1 / kinds) < 0.02 for n in counts.values())


def test_data_without_a_list_of_labels_is_read_once_and_unreadable_ones_join_the_most_frequent_class() -> None:
    data = ShapesDataset(ShapesConfig(scenes=40), Site(size=(16, 16)))
    labels = labels_of(data, "class_label")
    assert labels.tolist() == [data[i]["class_label"] for i in range(40)]

    @attrs.define
    class Known:
        told: Any

        def labels(self, key: str) -> Any:
            return np.array(self.told)

    assert balanced(Known([1, -1, 1, 0, -1]), "class_label").tolist() == [1, 1, 1, 0, 1]
    examples = Examples(data, (16, 16), DataSettings(balance="class_label"), ["image"])
    assert examples.arrangement.groups is not None and set(examples[0]) == {"image"}


def test_a_run_is_balanced_says_so_and_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """A run that is stopped at a step and goes on has the losses of one that was not; a key that is no class of each
    example is one line."""
    folder(tmp_path / "data", {"ant": 6, "bee": 2})
    settings: Any = {"dataset": {"use": "folder", "url": str(tmp_path / "data")}, "data": {"balance": "class_label"}}
    with pytest.raises(ConfigError, match=r"data.balance: .* has no class 'caption' .*; choose of: class_label"):
        go(tmp_path / "none", **{**settings, "data": {"balance": "caption"}})
    whole = go(tmp_path / "whole", "trainer.steps=4", **settings)
    assert "denoiser: balanced by class_label: 2 classes of 2 to 6 examples, drawn equally" in whole.messages
    halves = Watch(stop=("denoiser", 2))
    with pytest.raises(Interrupted):
        go(tmp_path / "halves", "trainer.steps=4", watch=halves, **settings)
    again = go(tmp_path / "halves", "trainer.steps=4", **settings)
    both = halves.losses["denoiser"] + again.losses["denoiser"]
    assert both == whole.losses["denoiser"] and len(both) == 4
