"""Pictures of any size enlarged whole by a model that was trained on small ones, and a model at another size."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from assembled import assembled
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from together import together

from ldm_core.data.colours import sharpened
from ldm_core.errors import ConfigError, DataError
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pieces.enlarged import Enlargement, Enlarger, whole_picture
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Progress

SMALL: dict[str, Any] = {"conditioners": ["low_resolution"], "guidance": "none"}


@pytest.fixture(scope="module")
def model() -> Pipeline:
    """Enlarges 4x4 to 16x16; latents of 4 cells, which its network takes in twos."""
    return assembled("KL", **SMALL)


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (channels, 3, 3), dtype=np.uint8)
    planes = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in small]
    return np.stack(planes)


def way_of(model: Pipeline, size: tuple[int, int]) -> Enlargement:
    enlarger = Enlarger.of(model.recipe)
    assert enlarger is not None
    return enlarger.way(size)


def sized(model: Pipeline, picture: Any, **more: Any) -> tuple[int, ...]:
    (made,) = model.sample(inputs={"image": picture}, whole=True, steps=1, images=1, **more)
    return made.image.shape


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (16, 16), (13, 5)])
def test_the_result_is_the_picture_a_whole_number_of_times(size: tuple[int, int], model: Pipeline) -> None:
    assert sized(model, photo(*size)) == (3, 4 * size[0], 4 * size[1])


def test_pictures_of_any_mode_are_taken_upright(model: Pipeline) -> None:
    rgb = Image.fromarray(photo(5, 9).transpose(1, 2, 0))
    turned = rgb.copy()
    turned.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned.getexif()[0x0112] = 6
    deep = Image.fromarray(photo(5, 9, 1)[0].astype(np.uint16) * 257)
    for picture in (rgb, rgb.convert("L"), rgb.convert("RGBA"), rgb.convert("P"), deep, photo(5, 9, 1)):
        assert whole_picture(picture, 3, "image").shape == (3, 5, 9)
    assert whole_picture(turned, 3, "image").shape == (3, 9, 5) and turned.size == (9, 5), "the given one stays"
    assert (whole_picture(deep, 3, "image") == photo(5, 9, 1)).all(), "16 bits are the 8 that they stand for"
    assert sized(model, turned) == (3, 36, 20)


def test_a_picture_is_padded_and_cut_back(model: Pipeline) -> None:
    way = way_of(model, (7, 3))
    assert (way.small, way.size, way.result) == ((8, 4), (32, 16), (28, 12))
    padded = way.padded(picture := photo(7, 3))
    assert (padded[:, :7, :3] == picture).all() and (padded[:, 7] == padded[:, 6]).all()
    dot = way_of(model, (1, 1))
    assert dot.size == (16, 16), "never less than in training"
    assert (dot.padded(photo(1, 1)) == photo(1, 1)).all() and dot.padded(photo(1, 1)).shape == (3, 4, 4)


def test_it_is_the_sampling_of_the_padded_picture(model: Pipeline) -> None:
    """In windows of training's latents, and with the coarse colours of the picture."""
    picture = photo(7, 11)
    way = way_of(model, (7, 11))
    (found,) = model.sample(inputs={"image": picture}, whole=True, steps=2, seed=7)
    settings = {
        "adapters": {"multidiffusion": {"use": "multidiffusion", "window": [4, 4], "overlap": 1}},
        "sample": {"colour_fix": "wavelet"},
    }
    by_hand = model.at_size(way.size).with_settings(settings)
    (same,) = by_hand.sample(inputs={"image": way.padded(picture)}, steps=2, seed=7, images=1)
    assert (way.cut(same.image) == found.image).all()
    assert found.metadata["whole"] == "7x11 enlarged whole, 4 times, to 28x44 (height x width)"
    assert (found.metadata["adapters"], found.metadata["colour_fix"]) == ("multidiffusion", "wavelet")
    assert found.metadata["image"].startswith("picture, 3x7x11; sha256 ")
    plain = model.with_settings(["sample.colour_fix=none"])
    (other,) = plain.sample(inputs={"image": picture}, whole=True, steps=2, seed=7)
    assert "colour_fix" not in other.metadata and (other.image != found.image).any()
    sharper = model.with_settings(["sample.colour_fix=none", "sample.sharpen=0.8"])
    (sharp,) = sharper.sample(inputs={"image": picture}, whole=True, steps=2, seed=7)
    inner = (slice(None), slice(24), slice(40))  # beyond it a blur sees the padding, which is cut afterwards
    assert sharp.metadata["sharpen"] == "0.8"
    assert (sharp.image[inner] == sharpened(other.image, 0.8)[inner]).all() and (sharp.image != other.image).any()
    target = np.stack([np.asarray(Image.fromarray(p).resize((44, 28), Image.Resampling.BICUBIC)) for p in picture])
    held = model.with_settings(["sample.colour_fix=back_projection"])
    (third,) = held.sample(inputs={"image": picture}, whole=True, steps=2, seed=7)
    again = np.stack([np.asarray(Image.fromarray(p).resize((11, 7), Image.Resampling.BICUBIC)) for p in third.image])
    assert third.metadata["colour_fix"] == "back_projection"
    assert np.abs(again.astype(int) - picture)[:, :6, :10].mean() < 4, "made small it is the picture, but for clipping"
    off, own = (abs(one.image.mean((1, 2)) - target.mean((1, 2))).max() for one in (found, other))
    assert off < own, "the mean colour is nearer to the picture's"


def test_a_picture_of_the_models_own_size_needs_neither(model: Pipeline) -> None:
    """Without the colours it is what a call without `whole` makes of it."""
    plain, picture = model.with_settings(["sample.colour_fix=none"]), photo(4, 4)
    (whole,) = plain.sample(inputs={"image": picture}, whole=True, steps=2, seed=3)
    (fitted,) = model.sample(inputs={"image": picture}, steps=2, seed=3, images=1)
    assert (whole.image == fitted.image).all() and "adapters" not in whole.metadata


def test_several_pictures_of_several_sizes(model: Pipeline) -> None:
    """Each as by itself; the progress counts all of them."""
    pictures = [photo(5, 5), photo(5, 5)[:, ::-1].copy(), photo(3, 9), photo(5, 5)]
    told: list[Progress] = []
    rows = [{"image": one} for one in pictures]
    made = model.sample(inputs=rows, whole=True, steps=2, seed=4, batch=1, callback=told.append)
    assert [one.image.shape[1:] for one in made] == [(20, 20), (20, 20), (12, 36), (20, 20)]
    assert [one.seed for one in made] == [4, 5, 6, 7]
    (alone,) = model.sample(inputs=rows[2], whole=True, steps=2, seed=6)
    assert (alone.image == made[2].image).all()
    assert [p.step for p in told] == list(range(1, 9)) and {p.steps for p in told} == {8}
    assert told[-1].images == 3 and told[-1].total == 4
    streamed = list(model.stream(inputs=rows, whole=True, steps=2, seed=4, batch=1))
    assert [len(batch) for batch in streamed] == [1, 1, 1, 1]
    assert all((a.image == b.image).all() for a, (b,) in zip(made, streamed, strict=True))


def test_two_threads_have_the_bits_of_each_alone(model: Pipeline) -> None:
    def drawn(seed: int, size: int) -> np.ndarray:
        return model.sample(inputs={"image": photo(5, size)}, whole=True, steps=2, seed=seed)[0].image

    alone = [drawn(1, 9), drawn(2, 6)]
    at_once = together([partial(drawn, 1, 9), partial(drawn, 2, 6)])
    assert all((a == b).all() for a, b in zip(alone, at_once, strict=True))


def test_windows_of_ones_own_stay(model: Pipeline) -> None:
    own = model.with_settings({"adapters": {"mine": {"use": "multidiffusion", "window": 1000}}})
    (made,) = own.sample(inputs={"image": photo(7, 11)}, whole=True, steps=1)
    assert made.metadata["adapters"] == "mine"


def test_a_model_at_another_size_shares_its_weights(model: Pipeline) -> None:
    other = model.at_size((32, 24))
    assert other.recipe.image_size == (32, 24) and model.recipe.image_size == (16, 16)
    own, its = dict(model.model.named_parameters()), dict(other.model.named_parameters())
    assert own.keys() == its.keys() and all(own[k].data_ptr() == its[k].data_ptr() for k in own)
    (made,) = other.sample(inputs={"image": photo(8, 6)}, steps=1, images=1)
    assert made.image.shape == (3, 32, 24)
    again = other.at_size((16, 16))
    (a,), (b,) = (p.sample(inputs={"image": photo(4, 4)}, steps=2, images=1, seed=1) for p in (again, model))
    assert (a.image == b.image).all()
    with pytest.raises(ConfigError, match="not divisible"):
        model.at_size((30, 24))


def test_misuse_is_one_line(model: Pipeline) -> None:
    picture = {"image": photo(5, 5)}
    with pytest.raises(ConfigError, match="whole: this model has no picture to enlarge"):
        assembled().sample(inputs={"class_label": 1}, whole=True)
    with pytest.raises(ConfigError, match="leave `start` out"):
        model.sample(inputs=picture, whole=True, start=Start.image(photo(16, 16)))
    with pytest.raises(ConfigError, match="whole='yes': expected True or False"):
        model.sample(inputs=picture, whole="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="draws pictures of one size"):
        model.begin(inputs=picture, whole=True)
    with pytest.raises(DataError, match=r"'image' of 3x20000 .* would be 12x80000, .* at most 65,536 pixels a side"):
        model.sample(inputs={"image": np.zeros((3, 3, 20000), np.uint8)}, whole=True)
    with pytest.raises(DataError, match="'image': expected a PIL image or uint8 values"):
        model.sample(inputs={"image": np.zeros((3, 0, 4), np.uint8)}, whole=True)
    with pytest.raises(ConfigError, match=r"takes .* GB for one image, and this machine has"):
        model.sample(inputs={"image": np.broadcast_to(np.uint8(0), (3, 16000, 16000))}, whole=True)
    with pytest.raises(DataError, match="this model needs a picture"):
        model.sample(whole=True)


def test_pictures_to_be_fitted_are_told_apart(model: Pipeline) -> None:
    enlarger = Enlarger.of(model.recipe)
    assert enlarger is not None and enlarger.key == "image"
    known = {(4, 4): False, (16, 16): False, (5, 4): True, (32, 32): True}
    assert {size: enlarger.wants({"image": photo(*size)}) for size in known} == known
    assert not enlarger.wants({"image": photo(5, 4), "mask": photo(5, 4)[0]}) and not enlarger.wants({})
    assert Enlarger.of(assembled().recipe) is None
