"""Original size, crop offset and target size as batch keys: by hand, and from every reader."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from picture_folders import opened
from PIL import Image

from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.catalog import Catalog
from ldm_core.contracts import SIZE_KEYS, DataInfo, Site
from ldm_core.data import sizes
from ldm_core.data.geometry import Cut, Fit, _fit_image, fit, plan
from ldm_core.data.mixture import Mixture
from ldm_core.data.unreadable import TooManyBad
from ldm_core.errors import DataError
from ldm_core.model.parts import data_info, make_dataset
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.order import Place

SITE = Site(size=(16, 16))


def encoded(height: int, width: int, form: str = "PNG", **more: Any) -> bytes:
    """A picture whose red is its row and whose green is its column, as far as 255 reach."""
    rows, columns = np.mgrid[:height, :width].clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, rows * 0], 2)).save(out, form, **more)
    return out.getvalue()


def folder(base: Path, **pictures: bytes) -> Path:
    for name, data in pictures.items():
        base.mkdir(parents=True, exist_ok=True)
        (base / name).with_suffix(".png" if b"PNG" in data[:8] else ".jpg").write_bytes(data)
    return base


def shown(example: Mapping[str, Any]) -> list[list[int]]:
    assert all(example[key].dtype == np.int64 and example[key].shape == (2,) for key in SIZE_KEYS)
    return [example[key].tolist() for key in SIZE_KEYS]


def examples(data: Any, keys: Iterable[str] = ("image", *SIZE_KEYS), **settings: Any) -> Examples:
    return Examples(data, (16, 16), DataSettings(**settings), keys)


# -------------------------------------------------------------------------------------------------- by hand


def test_a_centred_crop_says_where_it_is_cut() -> None:
    step = plan((32, 64), (16, 16))
    assert (step.resized, step.offset) == ((16, 32), (0, -8))
    assert shown(sizes.sizes_of(step, flip=False)) == [[32, 64], [0, 8], [16, 16]]


def test_padding_lies_before_the_picture() -> None:
    assert shown(sizes.sizes_of(plan((32, 64), (16, 16), "pad"), flip=False)) == [[32, 64], [-4, 0], [16, 16]]


@pytest.mark.parametrize("rule", ["crop", "pad"])
@pytest.mark.parametrize("seed", range(5))
def test_the_offset_of_a_mirrored_picture_cuts_the_mirrored_picture_to_the_same(seed: int, rule: Any) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (3, 20, 20 + 9 * seed), dtype=np.uint8)
    cut = Cut.drawn(seed + 1, 1.0) if rule == "crop" else None
    example, keys = {"image": picture}, {"image": "image"}
    mirrored = fit(example, keys, (20, 20), rule, flip=True, cut=cut)["image"]
    step = plan(picture.shape[1:], (20, 20), rule, cut)  # type: ignore[arg-type]
    told = sizes.sizes_of(step, flip=True)
    top, left = told["crop_offset"].tolist()
    again = attrs.evolve(step, offset=(-top, -left))
    assert np.array_equal(_fit_image(picture[..., ::-1].copy(), again, False), mirrored)


def test_the_sizes_of_what_is_sampled() -> None:
    found = sizes.default_sizes((3, 24, 40), SIZE_KEYS)
    assert shown(found) == [[24, 40], [0, 0], [24, 40]]
    assert list(sizes.default_sizes((24, 40), ["caption", "crop_offset"])) == ["crop_offset"]


def test_keys_are_offered_beside_pictures_and_not_where_a_mixture_lacks_them() -> None:
    assert all(DataInfo(keys={"image": "image"}).offers(key) for key in SIZE_KEYS)
    assert not DataInfo(keys={"caption": "value"}).offers("original_size")
    torn = DataInfo(keys={"image": "image"}, lacks={"original_size": "'b' has none"})
    assert not torn.offers("original_size") and torn.offers("crop_offset") and not torn.offers("weight")


# ------------------------------------------------------------------------------------------------- readers


def test_a_folder_of_several_sizes(tmp_path: Path) -> None:
    data = opened(folder(tmp_path, a=encoded(16, 16), b=encoded(32, 64), c=encoded(48, 16)))
    found = examples(data)
    assert found.keys == {"image": "image", **dict.fromkeys(SIZE_KEYS, "value")}
    assert [shown(found[i]) for i in range(3)] == [
        [[16, 16], [0, 0], [16, 16]],
        [[32, 64], [0, 8], [16, 16]],
        [[48, 16], [16, 0], [16, 16]],
    ]
    assert shown(found[Place(0, 1, True)]) == [[32, 64], [0, 8], [16, 16]]
    plain = examples(data, ["image"])
    assert set(plain[0]) == {"image"} and "original_size" not in plain.keys
    assert np.array_equal(plain[1]["image"], found[1]["image"])


def test_buckets_say_their_own_size(tmp_path: Path) -> None:
    data = opened(folder(tmp_path, a=encoded(30, 16)))
    found = examples(data, buckets=((32, 16),))
    assert shown(found[Place(0, 0, False, size=(32, 16))]) == [[30, 16], [0, 1], [32, 16]]


def test_a_random_cut_says_where_it_lies(tmp_path: Path) -> None:
    data = opened(folder(tmp_path, a=encoded(64, 96)))
    found = examples(data, crop="random", crop_scale=0.5)
    seen = set()
    for seed in range(1, 9):
        one = found[Place(0, 0, False, crop=seed)]
        step = plan((64, 96), (16, 16), "crop", Cut.drawn(seed, 0.5))
        assert shown(one) == [[64, 96], [-step.offset[0], -step.offset[1]], [16, 16]]
        top, left = one["crop_offset"].tolist()
        row, column = one["image"][0, 8, 8], one["image"][1, 8, 8]  # the place in the picture as it is stored
        assert abs(row - (top + 8.5) * 64 / step.resized[0]) < 3
        assert abs(column - (left + 8.5) * 96 / step.resized[1]) < 3
        seen.add((top, left))
    assert len(seen) > 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_that_is_decoded_smaller_keeps_its_size(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = opened(folder(tmp_path, a=encoded(801, 1203, "JPEG", exif=exif)))
    found = examples(data)
    assert max(found.dataset[0]["image"].size) < 400, "it was to be decoded at an eighth"
    upright = [801, 1203] if orientation == 1 else [1203, 801]
    assert shown(found[0])[0] == upright
    without = examples(data, SIZE_KEYS)  # cached latents: the picture itself is not read
    assert list(without.dataset.keys) == [] and shown(without[0]) == shown(found[0])


def test_a_picture_without_a_size_is_a_bad_example_where_only_headers_are_read(tmp_path: Path) -> None:
    """The picture of cached latents was readable once, and its place has the next one's size now."""
    pictures = {"a": encoded(20, 30), "b": encoded(40, 20), "c": encoded(16, 24)}
    data = opened(folder(tmp_path, **pictures), max_bad=0.5)
    (tmp_path / "b.png").write_bytes(pictures["b"][:12])
    found = pickle.loads(pickle.dumps(examples(data, SIZE_KEYS)))  # as it goes to a loader's worker
    assert [shown(found[i])[0] for i in range(3)] == [[20, 30], [16, 24], [16, 24]]
    assert found.dataset.moved == {1: 2}
    ((name, why),) = found.dataset.bad.items()
    assert "b" in name and "does not say its size, of which 'original_size' is made" in why and "save it anew" in why
    with pytest.raises(TooManyBad, match=r"cannot be read, 0 may .*dataset\.max_bad"):
        examples(opened(tmp_path, max_bad=0.0), SIZE_KEYS)[1]


def test_data_without_any_picture_have_no_sizes() -> None:
    class Words:
        keys: Mapping[str, str] = {"caption": "value"}
        classes: Mapping[str, int] = {}
        class_names: Mapping[str, tuple[str, ...]] = {}

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"caption": "a"}

        def select(self, keys: Iterable[str]) -> Words:
            return self

        def fingerprint(self) -> str:
            return ""

    with pytest.raises(
        DataError, match=r"reads 'original_size', .* neither pictures nor image_size\(index\); give them"
    ):
        examples(Words(), ("caption", *SIZE_KEYS))[0]


def test_a_file_cannot_say_that_it_was_decoded_smaller(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("(-1, -1)", "(9, 9)")
    text.add_text("stored_size", "(9, 9)")
    data = opened(folder(tmp_path, a=encoded(20, 30, pnginfo=text)))
    assert shown(examples(data)[0])[0] == [20, 30]


def test_maps_stand_for_the_picture_and_a_data_set_without_headers_is_decoded() -> None:
    class Arrays:
        keys: Mapping[str, str] = {"image": "image", "segmentation": "map"}
        classes: Mapping[str, int] = {}
        class_names: Mapping[str, tuple[str, ...]] = {}

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, Any]:
            whole = {"image": np.zeros((3, 20, 30), np.uint8), "segmentation": np.zeros((20, 30), np.int64)}
            return {key: whole[key] for key in self.keys}

        def select(self, keys: Iterable[str]) -> Arrays:
            view = Arrays()
            view.keys = {key: self.keys[key] for key in keys}
            return view

        def fingerprint(self) -> str:
            return ""

    for keys, drawn in (((*SIZE_KEYS,), ["image"]), (("segmentation", *SIZE_KEYS), ["segmentation"])):
        found = examples(Arrays(), keys)
        assert list(found.dataset.keys) == drawn and shown(found[0]) == [[20, 30], [0, 4], [16, 16]]
        assert set(found[0]) == set(keys)


def test_a_tar_and_a_mixture(tmp_path: Path) -> None:
    url = tmp_path / "a.tar"
    with tarfile.open(url, "w") as out:
        for name, content in {"x.png": encoded(40, 20), "y.png": encoded(16, 20)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    tar = TarDataset(TarConfig(url=str(url)), SITE)
    here = opened(folder(tmp_path / "b", z=encoded(24, 16)))
    mixed = Mixture([("a", tar, None), ("b", here, None)])
    for keys in (("image", *SIZE_KEYS), SIZE_KEYS):
        found = examples(mixed, keys)
        assert [shown(found[i])[0] for i in range(3)] == [[40, 20], [16, 20], [24, 16]]
    turns = Mixture([("a", tar, None), ("b", here, None)], spread=True)
    assert [shown(examples(turns, SIZE_KEYS)[i])[0] for i in range(3)] == [[40, 20], [24, 16], [16, 20]]


# ---------------------------------------------------------------------------------------------- own keys


def own(base: Path, **fields: Any) -> Any:
    folder(base, a=encoded(32, 64))
    (base / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", **fields}))
    return opened(base, read={key: key for key in fields})


def test_a_data_sets_own_sizes_win(tmp_path: Path) -> None:
    data = own(tmp_path, original_size=[1024, 2048])
    one = examples(data)[Place(0, 0, True)]
    assert shown(one) == [[1024, 2048], [0, 8], [16, 16]]
    assert data_info(data).keys["original_size"] == "value"
    fraction = examples(own(tmp_path / "b", original_size=[10.5, 20.5]))[0]["original_size"]
    assert fraction.dtype == np.float32 and fraction.tolist() == [10.5, 20.5]
    assert examples(own(tmp_path / "c", original_size="large"))[0]["original_size"] == "large"


def test_a_mixture_with_own_sizes_in_one_part_alone_says_so(tmp_path: Path) -> None:
    parts = [
        ("a", own(tmp_path / "a", original_size=[9, 9]), None),
        ("b", opened(folder(tmp_path / "b", z=encoded(8, 8))), None),
    ]
    mixed = Mixture(parts)  # type: ignore[arg-type]
    assert "original_size" in mixed.lacks
    with pytest.raises(DataError, match="no 'original_size': 'b' has none"):
        sizes.paired(mixed, ["original_size"])
    assert list(sizes.paired(mixed, ["crop_offset"]).keys) == ["image"]


def test_a_recipe_finds_them_in_any_data() -> None:
    catalog = Catalog.discover()
    data = make_dataset(resolve({"dataset": {"use": "shapes", "scenes": 4}, "image_size": 16}, catalog), catalog)
    assert sizes.written(data, ["caption", *SIZE_KEYS]) == list(SIZE_KEYS)
    assert list(sizes.paired(data, ["caption", *SIZE_KEYS]).keys) == ["image", "caption"]
    assert shown(examples(data)[0]) == [[16, 16], [0, 0], [16, 16]]


def test_a_fit_of_its_own_size_is_a_whole_picture() -> None:
    assert Fit((4, 4), (4, 4), (4, 4), (0, 0)) == plan((4, 4), (4, 4))
