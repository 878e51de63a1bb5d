"""Several data sets as one: keys, classes by name, recipes, shares, held-out data."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from training_runs import TINY

from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.options import RecipeOptions
from ldm_core.config.structure import digest
from ldm_core.contracts import DataInfo, Dataset, Site
from ldm_core.data.images import png_bytes
from ldm_core.data.mixture import Mixture
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, DataError
from ldm_core.model.parts import data_info, make_dataset
from ldm_core.recipe.recipe import MixturePart
from ldm_core.recipe.resolve import resolve
from ldm_core.training import workflow
from ldm_core.training.feed.examples import Examples, arrange
from ldm_core.training.feed.order import Order

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class Rows:
    """Data in memory: `rows` of key -> value."""

    def __init__(self, rows: list[dict[str, Any]], geometry: dict[str, str], names: Any = (), count: int = 0) -> None:
        self.rows, self._names, self._count = rows, names, count
        self.keys: Mapping[str, str] = geometry
        labelled = {k for k in ("class_label", "box_labels", "segmentation") if k in geometry}
        self.classes: Mapping[str, int] = {k: count or len(names) for k in labelled if count or names}
        self.class_names: Mapping[str, tuple[str, ...]] = {k: tuple(names) for k in labelled if names}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.rows[index].get("bad"):
            raise BadExample(f"row{index}", "broken")
        return {k: self.rows[index][k] for k in self.keys}

    def select(self, keys: Any) -> Rows:
        return Rows(self.rows, {k: self.keys[k] for k in keys}, self._names, self._count)

    def fingerprint(self) -> str:
        return digest([[str(r) for r in self.rows], self.keys])


def labelled(labels: list[int], names: Any = (), count: int = 0, **more: Any) -> Rows:
    rows = [{"class_label": label, "name": f"n{i}", **more} for i, label in enumerate(labels)]
    kinds = {"class_label": "value", "name": "value", **dict.fromkeys(more, "value")}
    return Rows(rows, kinds, names, count)


def test_classes_are_matched_by_name() -> None:
    a, b = labelled([0, 1], ("cat", "dog")), labelled([0, 1, 2], ("fox", "dog", "cat"))
    mixed = Mixture([("a", a, None), ("b", b, None)])
    assert isinstance(mixed, Dataset) and len(mixed) == 5
    assert mixed.class_names["class_label"] == ("cat", "dog", "fox") and mixed.classes == {"class_label": 3}
    assert [mixed[i]["class_label"] for i in range(5)] == [0, 1, 2, 1, 0]
    assert [mixed[i]["name"] for i in (0, 2)] == ["a/n0", "b/n0"]
    assert pickle.loads(pickle.dumps(mixed))[4]["class_label"] == 0
    held_out = Mixture([("b", b, None)], data_info(mixed))  # the same numbers, also without the first part
    assert [held_out[i]["class_label"] for i in range(3)] == [2, 1, 0]
    with pytest.raises(IndexError):
        mixed[5]
    assert mixed.fingerprint() == Mixture([("x", a, 2.0), ("y", b, 1.0)]).fingerprint()
    assert mixed.fingerprint() != Mixture([("b", b, None), ("a", a, None)]).fingerprint()


def test_labels_of_boxes_and_maps_are_renumbered_too() -> None:
    row = {
        "box_labels": np.array([0, 1, 0]),
        "boxes": np.zeros((3, 4), np.float32),
        "segmentation": np.array([[0, 1], [255, 1]], np.uint8),
    }
    kinds = {"box_labels": "per_box", "boxes": "boxes", "segmentation": "map"}
    first = Rows([row], kinds, ("sky", "sea"))
    second = Rows([row], kinds, ("sea", "sand"))
    got = Mixture([("a", first, None), ("b", second, None)])[1]
    assert got["box_labels"].tolist() == [1, 2, 1]
    assert got["segmentation"].tolist() == [[1, 2], [255, 2]]
    assert row["segmentation"].tolist() == [[0, 1], [255, 1]]


def test_only_what_all_parts_have_is_offered() -> None:
    mixed = Mixture([("a", labelled([0], count=2, caption="x"), None), ("b", labelled([4], count=5), None)])
    assert set(mixed.keys) == {"name"}
    with pytest.raises(DataError, match=r"no 'caption': 'b' has none \(all have: name\)"):
        mixed.select(["caption"])
    with pytest.raises(DataError, match=r"no 'class_label': 2 in 'a', 5 in 'b', and not all of these classes have"):
        mixed.select(["class_label"])
    same = Mixture([("a", labelled([0], count=5), None), ("b", labelled([4], count=5), None)])
    assert same.classes == {"class_label": 5} and same[1]["class_label"] == 4
    fewer = Mixture([("a", labelled([0], count=1), None), ("b", labelled([3], count=4), None)], data_info(same))
    assert fewer.classes == {"class_label": 5} and fewer[1]["class_label"] == 3
    with pytest.raises(DataError, match="part 'b' has no examples"):
        Mixture([("a", labelled([0], count=1), None), ("b", labelled([]), None)])


def test_shares_hold_exactly_and_each_part_goes_through_all_of_it() -> None:
    mixed = Mixture([("a", labelled([0] * 30, count=1), 1.0), ("b", labelled([0] * 10, count=1), 3.0)])
    order = Order(Arranged(mixed), seed=5, images=8)
    indices = [order.place(i).index for i in range(40 * 6)]
    for epoch in range(6):
        here = indices[epoch * 40 : epoch * 40 + 40]
        assert sum(i < 30 for i in here) == 10 and sum(i >= 30 for i in here) == 30
    for step in range(30):  # and so does every batch
        assert sum(i < 30 for i in indices[8 * step : 8 * step + 8]) == 2
    first = [i for i in indices if i < 30]
    assert sorted(first[:30]) == list(range(30)) and sorted(first[30:]) == list(range(30))
    second = [i for i in indices if i >= 30]
    assert all(sorted(second[k : k + 10]) == list(range(30, 40)) for k in range(0, 180, 10))
    places = [order.place(i) for i in range(240)]
    assert len({(p.epoch, p.index) for p in places}) == 240  # no two examples of a run share a noise


def Arranged(data: Any) -> Any:
    from ldm_core.recipe.settings import DataSettings

    return arrange(data, DataSettings(), (8, 8))


def test_without_weights_each_epoch_has_every_example_once() -> None:
    mixed = Mixture([("a", labelled([0] * 7, count=1), None), ("b", labelled([0] * 5, count=1), None)])
    order = Order(Arranged(mixed), seed=1)
    for epoch in range(5):
        assert sorted(order.place(12 * epoch + i).index for i in range(12)) == list(range(12))


def test_held_out_examples_take_turns() -> None:
    a, b = labelled([0] * 6, ("x",)), labelled([0] * 3, ("x",))
    mixed = Mixture([("a", a, None), ("b", b, 9.0)], spread=True)
    names = [mixed[i]["name"] for i in range(9)]
    assert sorted(names) == [f"a/n{i}" for i in range(6)] + [f"b/n{i}" for i in range(3)]
    assert [sum(n.startswith("b") for n in names[:k]) for k in (3, 6, 9)] == [1, 2, 3]
    assert [mixed.select(["name"])[i]["name"] for i in range(9)] == names and mixed.sections == ()


def test_bad_examples_are_named_with_their_part(tmp_path: Path) -> None:
    rows = Rows([{"x": 1}, {"x": 2, "bad": True}, {"x": 3}], {"x": "value"})
    from ldm_core.recipe.settings import DataSettings

    examples = Examples(Mixture([("a", rows, None), ("b", rows, None)]), (8, 8), DataSettings(), ["x"])
    assert [examples[i]["x"] for i in (0, 1)] == [1, 3]
    assert list(examples.dataset.bad) == ["a/row1"]


# ------------------------------------------------------------------------------------------------ recipes


def folder(path: Path, count: int, *, splits: bool = True) -> str:
    for split, n in (("train", count), ("val", 2)) if splits else (("", count),):
        (path / split).mkdir(parents=True)
        for i in range(n):
            (path / split / f"{i}.png").write_bytes(png_bytes(np.full((3, 16, 16), 5 * i, np.uint8)))
            (path / split / f"{i}.txt").write_text(f"{path.name} {i}")
    return str(path)


def mixed_plain(tmp_path: Path, **weights: float) -> dict[str, Any]:
    parts = []
    for name, count in (("one", 9), ("two", 6)):
        url = folder(tmp_path / name, count, splits=name == "one")
        parts.append({"use": "folder", "url": url} | ({"weight": weights[name]} if name in weights else {}))
    return {**TINY, "dataset": parts}


def test_a_recipe_with_several_data_sets(tmp_path: Path) -> None:
    catalog = Catalog.discover()
    recipe, info = workflow.prepare(mixed_plain(tmp_path, one=1, two=2), catalog)
    assert isinstance(recipe.dataset, MixturePart) and len(recipe.datasets) == 2
    assert [row["weight"] for row in recipe.plain()["dataset"]] == [1.0, 2.0]
    assert resolve(recipe.plain(), catalog, info) == recipe
    other = attrs.evolve(recipe, dataset=attrs.evolve(recipe.dataset, weights=(1.0, 3.0)))
    assert recipe.identity() != other.identity()
    data = make_dataset(recipe, catalog)
    assert "one (9 at 33.3%), two (6 at 66.7%)" in data.describe()
    held_out = make_dataset(recipe, catalog, info, split="val")  # the second has no such split
    assert [held_out[i]["name"] for i in range(len(held_out))] == ["one/0", "one/1"]
    with pytest.raises(DataError, match="no split 'nope'"):
        make_dataset(recipe, catalog, split="nope")


def test_a_list_of_one_is_that_one(tmp_path: Path) -> None:
    catalog = Catalog.discover()
    url = folder(tmp_path / "one", 3)
    alone = resolve({**TINY, "dataset": {"use": "folder", "url": url}}, catalog)
    listed = resolve({**TINY, "dataset": [{"use": "folder", "url": url, "weight": 3}]}, catalog)
    assert alone == listed and alone.identity() == listed.identity()


def test_mistakes_in_a_list_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            {"dataset": [{"use": "shapes", "weight": 0}, {"use": "shapes", "scenes": -1}, "nothing"]},
            Catalog.discover(),
        )
    told = "\n".join(caught.value.problems)
    assert "dataset[0].weight: expected a number above 0, got 0" in told
    assert "some data sets have a weight and some have none" in told
    assert "dataset[1].scenes" in told and "dataset[2]" in told and "'nothing'" in told


def test_repeated_data_options_are_mixed(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one", 2), folder(tmp_path / "two", 2)
    request = RecipeOptions(data=(one, two), settings=("dataset.1.weight=2", "dataset.0.weight=1"))
    plain = assemble(request, Catalog.discover()).plain
    assert plain["dataset"] == [
        {"use": "folder", "url": one, "weight": 1},
        {"use": "folder", "url": two, "weight": 2},
    ]


def test_the_emoji_sets_mix() -> None:
    urls = [SHARED / name for name in ("emoji_noto", "emoji_blob")]
    if not all(url.is_dir() for url in urls):
        pytest.skip("the shared emoji data is not beside the project")
    catalog = Catalog.discover()
    plain = {**TINY, "image_size": 64, "scale": "small", "conditioners": ["text", "class_label"]}
    recipe, info = workflow.prepare({**plain, "dataset": [{"use": "tar", "url": str(url)} for url in urls]}, catalog)
    assert info.classes == {"class_label": 9}
    data = make_dataset(recipe, catalog)
    assert len(data) == 1709 + 1281
    assert len(make_dataset(recipe, catalog, info, split="val")) == 184 + 139
    first, last = data[0], data[len(data) - 1]
    assert first["name"].startswith("emoji_noto/") and last["name"].startswith("emoji_blob/")
    assert first["image"].shape == last["image"].shape == (3, 64, 64)
    groups = Counter(info.class_names["class_label"][data.select(["class_label"])[i]["class_label"]] for i in (0, 1709))
    assert groups == {"Smileys & Emotion": 2}


def test_a_mixture_takes_a_site() -> None:
    """What it is made of gets the recipe's channels, like a data set by itself."""
    recipe = resolve({**TINY, "dataset": ["shapes", {"use": "shapes", "seed": 1}]}, Catalog.discover())
    data = make_dataset(recipe, Catalog.discover())
    assert data[0]["image"].shape == (recipe.image_channels, *Site(size=recipe.image_size).size)
    assert data[0]["name"].startswith("shapes#1/")
    assert data_info(data) == DataInfo(data.keys, data.classes, data.class_names, data.lacks, data.widths)


def test_a_run_on_a_mixture(tmp_path: Path) -> None:
    """All stages; the samples take their captions from the held-out data of the part that has some."""
    from training_runs import go

    text = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 64, "length": 16}
    plain = mixed_plain(tmp_path, one=1, two=3)
    overrides = {"dataset": plain["dataset"], "conditioners": [{**text, "logits": False, "dropout": 0.1}]}
    watch = go(tmp_path / "run", "data.flip=true", **overrides)
    assert ("samples", "done") in watch.ends
    assert any("15 samples of one (9 at 25.0%), two (6 at 75.0%)" in m for m in watch.messages)
    assert any("held-out images" in m for m in watch.messages)
    again = go(tmp_path / "run", "data.flip=true", **overrides)
    assert ("denoiser", "skipped") in again.ends


def test_the_check_says_which_part_lacks_a_key(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    plain = {**TINY, "conditioners": ["text"], "dataset": ["shapes", {"use": "folder", "url": str(tmp_path / "two")}]}
    (tmp_path / "two" / "a.png").write_bytes(png_bytes(np.zeros((3, 8, 8), np.uint8)))
    with pytest.raises(ConfigError, match=r"reads 'caption', which dataset 'mixture' does not offer: 'two' has none"):
        workflow.prepare(plain, Catalog.discover())
