"""Fitting and mirroring examples, and pictures as bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ldm_core.builtin.shapes.config import ShapesConfig
from ldm_core.builtin.shapes.dataset import ShapesDataset
from ldm_core.contracts import Site
from ldm_core.data import geometry, images, palettes
from ldm_core.errors import DataError

KEYS = {
    "image": "image", "segmentation": "map", "boxes": "boxes", "box_labels": "per_box",
    "caption": "value", "depth": "map", "scores": "per_box", "edges": "image",
}  # fmt: skip


def _example(height: int, width: int) -> dict[str, Any]:
    """A picture whose red is the column and green the row, so that where a pixel went can be read off."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns, rows, np.zeros_like(rows)]).astype(np.uint8)
    labels = (columns // 8 + rows // 8 * 4).astype(np.int64)
    return {
        "image": image, "edges": image[:1].copy(), "segmentation": labels, "depth": labels[None] * 2,
        "boxes": np.array([[0.1, 0.2, 0.3, 0.4], [0.8, 0.1, 0.2, 0.2]], dtype=np.float32),
        "box_labels": np.array([3, 5]), "scores": [0.5, 0.25], "caption": "left alone",
    }  # fmt: skip


def test_same_size_changes_nothing() -> None:
    example = _example(32, 48)
    fitted = geometry.fit(example, KEYS, (32, 48))
    for key, value in example.items():
        assert np.array_equal(fitted[key], value)


def test_crop_keeps_the_middle() -> None:
    fitted = geometry.fit(_example(32, 64), KEYS, (32, 32))
    assert np.array_equal(fitted["image"][0], np.tile(np.arange(16, 48), (32, 1)))
    assert np.array_equal(fitted["edges"], fitted["image"][:1])
    assert np.array_equal(fitted["segmentation"], _example(32, 64)["segmentation"][:, 16:48])
    assert np.array_equal(fitted["depth"][0], 2 * fitted["segmentation"])
    # The first box spans columns 6.4 to 25.6: -9.6 to 9.6 in the crop, so 0 to 0.3. The second is gone.
    np.testing.assert_allclose(fitted["boxes"], [[0.0, 0.2, 0.3, 0.4]], atol=1e-6)
    assert fitted["box_labels"].tolist() == [3] and fitted["scores"] == [0.5]


def test_pad_fills_with_white_and_unlabeled() -> None:
    fitted = geometry.fit(_example(32, 64), KEYS, (64, 64), "pad")
    assert (fitted["image"][:, :16] == 255).all() and (fitted["image"][:, 48:] == 255).all()
    assert (fitted["segmentation"][:16] == palettes.UNLABELED).all()
    assert np.array_equal(fitted["segmentation"][16:48], _example(32, 64)["segmentation"])
    np.testing.assert_allclose(fitted["boxes"][0], [0.1, 0.35, 0.3, 0.2], atol=1e-6)
    assert fitted["box_labels"].tolist() == [3, 5]


def test_flip_mirrors_every_geometry() -> None:
    example = _example(32, 48)
    before = {key: np.array(value) for key, value in example.items()}
    fitted = geometry.fit(example, KEYS, (32, 48), flip=True)
    for key in ("image", "edges", "segmentation", "depth"):
        assert np.array_equal(fitted[key], before[key][..., ::-1])
    np.testing.assert_allclose(fitted["boxes"][0], [0.6, 0.2, 0.3, 0.4], atol=1e-6)
    assert all(np.array_equal(example[key], value) for key, value in before.items())  # input unchanged
    twice = geometry.fit(fitted, KEYS, (32, 48), flip=True)
    np.testing.assert_allclose(twice["boxes"], before["boxes"], atol=1e-6)


@pytest.mark.parametrize("rule", ["crop", "pad"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (50, 30), (64, 96)])
def test_boxes_and_maps_stay_on_their_objects(rule: Any, size: tuple[int, int]) -> None:
    """Independent of the code that moves boxes: the moved label map says where each object is."""
    data = ShapesDataset(ShapesConfig(shares=(1, 1, 1)), Site(size=(60, 84)))
    for index in range(20):
        fitted = geometry.fit(data[index], data.keys, size, rule, flip=index % 2 == 1)
        assert fitted["image"].shape == (3, *size) and fitted["segmentation"].shape == size
        assert len(fitted["boxes"]) == len(fitted["box_labels"])
        for (x, y, w, h), label in zip(fitted["boxes"], fitted["box_labels"], strict=True):
            rows, columns = np.nonzero(fitted["segmentation"] == label + 1)
            if len(rows) < 20:
                continue
            ends = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = np.array([x * size[1], y * size[0], (x + w) * size[1], (y + h) * size[0]])
            assert (ends - box)[:2].min() > -1.5 and (ends - box)[2:].max() < 1.5
            uncut = x > 0 and y > 0 and x + w < 1 and y + h < 1  # of a cut triangle less than the box is left
            assert not uncut or np.abs(ends - box).max() < 2.6


def test_resizing_is_antialiased_and_keeps_the_mean() -> None:
    stripes = np.zeros((3, 64, 64), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    fitted = geometry.fit({"image": stripes}, KEYS, (16, 16))["image"]
    assert abs(float(fitted.mean()) - 100) < 1 and fitted.std() < 3


def test_maps_are_never_blended() -> None:
    labels = np.random.default_rng(0).choice([0, 7, 31], (40, 40))
    for size in ((16, 16), (64, 64)):
        fitted = geometry.fit({"segmentation": labels}, KEYS, size)["segmentation"]
        assert set(np.unique(fitted)) <= {0, 7, 31}


def test_unequal_shapes_are_an_error() -> None:
    example = {"image": np.zeros((3, 8, 8), np.uint8), "segmentation": np.zeros((8, 9), int), "name": "a7"}
    with pytest.raises(DataError, match=r"a7: 'image' is 8x8 but 'segmentation' is 8x9"):
        geometry.fit(example, KEYS, (8, 8))


# ------------------------------------------------------------------------------------------------- pictures


def _encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)


def test_png_round_trip_with_metadata() -> None:
    array = _noise(5, 7)
    data = images.png_bytes(array, {"prompt": "ein grüner Käfer 🪲", "seed": "7"})
    assert np.array_equal(images.decode_image(data), array)
    assert images.png_metadata(data) == {"prompt": "ein grüner Käfer 🪲", "seed": "7"}
    assert np.array_equal(images.decode_image(images.png_bytes(array[:1]), 1), array[:1])


def test_rotation_transparency_and_deep_greys() -> None:
    array = _noise(4, 6)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn clockwise
    data = _encoded(images.to_picture(array), format="PNG", exif=turned)
    assert np.array_equal(images.decode_image(data), np.rot90(array, -1, (1, 2)))
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    clear[0, 0] = (255, 0, 0, 255)
    clear[0, 1] = (0, 0, 0, 128)
    seen = images.decode_image(_encoded(Image.fromarray(clear), format="PNG"))
    assert seen[:, 0, 0].tolist() == [255, 0, 0] and seen[:, 1, 1].tolist() == [255, 255, 255]
    assert abs(int(seen[0, 0, 1]) - 127) <= 1
    deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    assert images.decode_image(_encoded(deep, format="PNG"), 1).tolist() == [[[0, 1, 255]]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert images.decode_image(_encoded(palette, format="PNG"))[:, 0, 1].tolist() == [40, 50, 60]
    assert images.decode_labels(_encoded(palette, format="PNG")).tolist() == [[0, 1]]


def test_what_is_no_picture_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"note\.jpg: not a picture \(begins with b'just some te'\)"):
        images.decode_image(b"just some text", name="note.jpg")
    with pytest.raises(DataError, match="the file is empty"):
        images.decode_image(b"")
    whole = _encoded(images.to_picture(_noise(64, 64)), format="JPEG")
    with pytest.raises(DataError, match="damaged or cut-off"):
        images.decode_image(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a label map in colour, such as"):
        images.decode_labels(whole)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64x64 is more than 1,000 pixels"):
        images.decode_image(whole)


def test_conversions() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    floats = images.to_float(every)
    assert floats.dtype == np.float32 and floats.min() == -1 and floats.max() == 1
    assert np.array_equal(images.to_uint8(floats), every)
    assert images.to_uint8(np.array([-3.0, 3.0, np.nan])).tolist() == [0, 255, 128]
    assert np.array_equal(images.to_channels(every, 3), np.repeat(every, 3, axis=0))


def test_grid_places_pictures_and_words() -> None:
    pictures = [np.full((3, 32, 32), value, dtype=np.uint8) for value in (0, 60, 120, 180, 240)]
    plain = images.grid(pictures, columns=3, gap=2)
    assert plain.shape == (3, 2 * 34 + 2, 3 * 34 + 2)
    assert [int(plain[0, 10, x]) for x in (10, 44, 78)] == [0, 60, 120]
    words = images.grid(pictures, ["a red circle at top left on a white background"] * 5, columns=3)
    assert words.shape[2] == 3 * 132 + 4 and words.shape[1] > 2 * 132 + 4
    below = words[:, 4 + 128 : 4 + 128 + 14, 4:132]
    assert (below < 128).any()  # the caption is there
    with pytest.raises(ValueError, match="got 1 for 5"):
        images.grid(pictures, ["one"])


def test_grid_writes_letters_beyond_ascii() -> None:
    pytest.importorskip("matplotlib", reason="its font is used")
    picture = np.full((3, 128, 128), 255, dtype=np.uint8)
    # a font without these letters draws the same box for each of them
    below = [images.grid([picture], [text])[:, 4 + 128 :] for text in ("ü", "í", "ж", "☆")]
    assert all((a < 200).any() for a in below)
    assert not any(np.array_equal(a, b) for i, a in enumerate(below) for b in below[:i])


def test_grid_marks_a_caption_that_is_too_long() -> None:
    picture = np.full((3, 128, 128), 255, dtype=np.uint8)
    six, more = (images.grid([picture], [" ".join(["circle"] * n)]) for n in (18, 100))
    assert six.shape == more.shape and not np.array_equal(six, more)


def test_a_decoded_picture_can_be_written_to() -> None:
    for channels in (1, 3):
        grey = images.decode_image(images.png_bytes(np.zeros((1, 4, 4), np.uint8)), channels)
        assert grey.shape == (channels, 4, 4) and grey.flags.writeable


@pytest.mark.parametrize("size", [(4, 4), (8, 8)])
def test_a_box_without_extent_is_dropped_whether_the_image_is_resized_or_not(size: tuple[int, int]) -> None:
    keys = {"image": "image", "boxes": "boxes", "box_labels": "per_box"}
    example = {
        "image": np.zeros((3, 4, 4), np.uint8),
        "boxes": np.array([[0.5, 0.5, 0.0, 0.25], [0.25, 0.25, 0.5, 0.5]], np.float32),
        "box_labels": np.array([1, 2]),
    }
    moved = geometry.fit(example, keys, size)
    assert moved["box_labels"].tolist() == [2]
    np.testing.assert_allclose(moved["boxes"], [[0.25, 0.25, 0.5, 0.5]])
