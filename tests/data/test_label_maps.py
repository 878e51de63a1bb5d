"""Label maps and masks of any mode; the classes that maps hold; maps of another size than their pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.cli.inputs import read_inputs
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.mixture import Mixture
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad
from ldm_core.errors import DataError

CLASSES = np.array([[0, 1, 2, 7], [255, 2, 1, 0], [3, 3, 3, 3]])
HOLES = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
SITE = Site(size=(8, 8))


def encoded(picture: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **settings)
    return buffer.getvalue()


def grey(levels: Any, kind: Any = np.uint8) -> Image.Image:
    return Image.fromarray(np.asarray(levels).astype(kind))


def palette(levels: Any, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(np.asarray(levels, dtype=np.uint8), mode="P")
    picture.putpalette(colours)
    return picture


MAPS: dict[str, bytes] = {
    "L": encoded(grey(CLASSES)),
    "I;16": encoded(grey(CLASSES, np.uint16)),
    "I": encoded(grey(CLASSES, np.int32), "TIFF"),
    "F": encoded(grey(CLASSES, np.float32), "TIFF"),
    "P": encoded(palette(CLASSES, list(range(256)) * 3)),
    "RGB": encoded(grey(CLASSES).convert("RGB")),
    "RGBA": encoded(grey(CLASSES).convert("RGBA")),
    "LA": encoded(grey(CLASSES).convert("LA")),
    "RGB BMP": encoded(grey(CLASSES).convert("RGB"), "BMP"),
    "RGB TIFF": encoded(grey(CLASSES).convert("RGB"), "TIFF"),
    "RGB WebP": encoded(grey(CLASSES).convert("RGB"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("mode", sorted(MAPS))
def test_a_map_is_read_whatever_its_mode(mode: str) -> None:
    labels = images.decode_labels(MAPS[mode])
    assert labels.dtype == np.int64 and labels.tolist() == CLASSES.tolist()


def test_numbers_above_255_are_classes_too() -> None:
    wide = np.array([[0, 300], [65535, 7]])
    assert images.decode_labels(encoded(grey(wide, np.uint16))).tolist() == wide.tolist()
    assert images.decode_labels(encoded(grey([[0, 255]] * 2).convert("1"))).tolist() == [[0, 1]] * 2


def coloured() -> dict[str, Image.Image]:
    voc = np.zeros((3, 4, 3), np.uint8)
    voc[1] = (128, 0, 0)
    return {
        "VOC": Image.fromarray(voc),
        "nearly grey": Image.fromarray(np.stack([CLASSES, CLASSES, np.minimum(CLASSES + 1, 255)], -1).astype(np.uint8)),
        "RGBA": Image.fromarray(voc).convert("RGBA"),
        "CMYK": Image.fromarray(voc).convert("CMYK"),
    }


@pytest.mark.parametrize("kind", sorted(coloured()))
def test_a_map_in_colour_says_what_to_do(kind: str) -> None:
    data = encoded(coloured()[kind], "TIFF")
    with pytest.raises(DataError, match=r"a\.seg\.png: a label map in colour, such as \(\d+, .*; save the number"):
        images.decode_labels(data, "a.seg.png")


def test_transparent_and_negative_maps_are_refused() -> None:
    half = grey(CLASSES).convert("LA")
    half.putalpha(grey(HOLES * 255))
    for data in (encoded(half), encoded(half.convert("RGBA"))):
        with pytest.raises(DataError, match="a label map with transparent pixels"):
            images.decode_labels(data)
        with pytest.raises(DataError, match="a mask with transparent pixels"):
            images.decode_mask(data)
    for kind, value in ((np.int32, -1), (np.float32, 0.5)):
        with pytest.raises(DataError, match="classes are numbered from 0 on"):
            images.decode_labels(encoded(grey(np.full((2, 2), value), kind), "TIFF"))
    with pytest.raises(DataError, match="damaged or cut-off"):
        images.decode_labels(MAPS["RGB BMP"][:60])


WHITE = HOLES * 255
MASKS: dict[str, bytes] = {
    "L": encoded(grey(WHITE)),
    "1": encoded(grey(WHITE).convert("1")),
    "LA": encoded(grey(WHITE).convert("LA")),
    "RGB": encoded(grey(WHITE).convert("RGB")),
    "RGBA": encoded(grey(WHITE).convert("RGBA")),
    "CMYK": encoded(grey(WHITE).convert("RGB").convert("CMYK"), "TIFF"),
    "I;16": encoded(grey(HOLES * 65535, np.uint16)),
    "I;16 of 8 bits": encoded(grey(WHITE, np.uint16)),
    "I": encoded(grey(HOLES * 65535, np.int32), "TIFF"),
    "F of 0 and 1": encoded(grey(HOLES, np.float32), "TIFF"),
    "F of 0 and 255": encoded(grey(WHITE, np.float32), "TIFF"),
    "P, black and white": encoded(palette(HOLES, [0, 0, 0, 255, 255, 255])),
    "P, white and black": encoded(palette(1 - HOLES, [255, 255, 255, 0, 0, 0])),
    "P, classes": encoded(palette(HOLES, [0, 0, 0, 128, 0, 0])),
    "0 and 1": encoded(grey(HOLES)),
    "RGB of 0 and 1": encoded(grey(HOLES).convert("RGB")),
    "JPEG": encoded(grey(np.kron(WHITE, np.ones((8, 8)))).convert("RGB"), "JPEG", quality=90),
    "GIF": encoded(grey(WHITE).convert("RGB"), "GIF"),
    "off-white": encoded(Image.fromarray((HOLES[..., None] * np.array([250, 251, 249])).astype(np.uint8))),
}


def holes(levels: np.ndarray) -> np.ndarray:
    """What the conditioner for masked images makes of levels, as its README has it."""
    only = set(np.unique(levels).tolist()) <= {0, 1, 255}
    return levels >= (1 if only else 128)


@pytest.mark.parametrize("mode", sorted(MASKS))
def test_black_and_white_is_a_mask_whatever_its_mode(mode: str) -> None:
    mask = images.decode_mask(MASKS[mode])
    mask = mask[4::8, 4::8] if mode == "JPEG" else mask
    assert mask.dtype == np.int64 and mask.min() >= 0 and mask.max() <= 255
    assert holes(mask).tolist() == (HOLES == 1).tolist()


def test_colours_of_a_mask_are_their_brightness() -> None:
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [90, 90, 90]]], dtype=np.uint8))
    assert images.decode_mask(encoded(picture)).tolist() == np.asarray(picture.convert("L")).tolist()


def test_masks_on_the_command_line_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(MASKS["RGB"])
    (tmp_path / "s.png").write_bytes(MAPS["RGBA"])
    found = read_inputs([f"mask=@{tmp_path}/m.png"], segmentation=f"{tmp_path}/s.png")
    assert found["mask"].tolist() == WHITE.tolist() and found["segmentation"].tolist() == CLASSES.tolist()


# -------------------------------------------------------------------------------------------------- in a data set


def folder(path: Path, count: int, extension: str, make: Callable[[int], bytes], size: tuple[int, int] = (8, 6)) -> str:
    path.mkdir(exist_ok=True)
    picture = encoded(Image.new("RGB", size, (9, 90, 200)))
    for i in range(count):
        (path / f"p{i:03d}.png").write_bytes(picture)
        (path / f"p{i:03d}.{extension}").write_bytes(make(i))
    return str(path)


def opened(url: str, **settings: Any) -> FolderDataset:
    return FolderDataset(FolderConfig(url=url, **settings), SITE)


def flat(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    return encoded(Image.new("L", size, value))


@pytest.mark.parametrize("keys", [("image", "segmentation"), ("segmentation",), ("segmentation", "image", "name")])
@pytest.mark.parametrize("size", [(16, 12), (8, 7), (6, 8), (1, 1), (4, 3)])
def test_a_map_of_another_size_is_a_bad_example(keys: tuple[str, ...], size: tuple[int, int], tmp_path: Path) -> None:
    url = folder(tmp_path, 4, "seg.png", lambda i: flat(1, size if i == 2 else (8, 6)))
    data = opened(url).select(keys)
    _ = data[1]
    with pytest.raises(BadExample, match=rf"p002.*segmentation.*|p002.*image.*{size[0]}x{size[1]}") as caught:
        _ = data[2]
    assert "8x6" in str(caught.value) and f"{size[0]}x{size[1]}" in str(caught.value)
    assert ("EXIF" in str(caught.value)) == (size == (6, 8))
    skipping = SkipBad(data, 0.25)
    assert skipping.resolve(2)[0] == 3 and len(skipping.bad) == 1


def test_a_picture_turned_by_exif_and_its_map(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, turned in enumerate((True, False)):
        Image.new("RGB", (8, 6), (9, 90, 200)).save(tmp_path / f"{i}.jpg", exif=exif)
        (tmp_path / f"{i}.seg.png").write_bytes(flat(1, (6, 8) if turned else (8, 6)))
    data = opened(str(tmp_path)).select(["image", "segmentation"])
    assert data[0]["segmentation"].shape == data[0]["image"].shape[1:] == (8, 6)
    with pytest.raises(BadExample, match=r"1.*8x6 pixels, and 'image' has 6x8 \(width x height\).*EXIF"):
        _ = data[1]
    Image.new("L", (8, 6), 1).save(tmp_path / "1.seg.png", exif=exif)  # both are turned
    assert opened(str(tmp_path)).select(["segmentation"])[1]["segmentation"].shape == (8, 6)


def test_masks_and_small_pictures_are_held_to_the_picture_in_tars_too(tmp_path: Path) -> None:
    import tarfile

    url = folder(tmp_path / "in", 3, "mask.png", lambda i: flat(255, (8, 8) if i else (8, 6)))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(url, "")
    data = TarDataset(TarConfig(url=str(tmp_path / "x.tar")), SITE).select(["image", "mask"])
    assert data[0]["mask"].shape == (6, 8)
    with pytest.raises(BadExample, match=r"p001.*mask: 8x8 pixels, and 'image' has 8x6"):
        _ = data[1]


@pytest.mark.parametrize("top", [2, 3, 9])
def test_a_class_past_the_maps_that_were_counted_names_the_setting(top: int, tmp_path: Path) -> None:
    url = folder(tmp_path, 270, "seg.png", lambda i: flat(1 if i < 258 else 2 if i < 268 else top))
    data = opened(url)
    assert data.classes == {"segmentation": 2}
    view = SkipBad(data.select(["segmentation"]), 0.01)
    with pytest.raises(TooManyBad) as caught:
        for i in range(256, 270):
            _ = view[i]
    asked = json.dumps({"segmentation": str(top + 1)}).replace('"segmentation"', "segmentation")
    assert f"dataset.classes='{asked}'" in str(caught.value)
    again = opened(url, classes={"segmentation": str(top + 1)})
    assert again.classes == {"segmentation": top + 1} and int(again[269]["segmentation"].max()) == top


def test_of_several_data_sets_the_setting_is_that_of_the_one(tmp_path: Path) -> None:
    one = opened(folder(tmp_path / "one", 258, "seg.png", lambda i: flat(1)))
    two = opened(folder(tmp_path / "two", 258, "seg.png", lambda i: flat(1 if i < 256 else 4)))
    mixed = Mixture([("one", one, None), ("two", two, None)])
    with pytest.raises(BadExample, match=r"two/p256.*set dataset\.1\.classes='\{segmentation: \"5\"\}'"):
        _ = mixed[258 + 256]


def test_one_stray_map_is_a_bad_example(tmp_path: Path) -> None:
    url = folder(tmp_path, 3, "seg.png", lambda i: flat(i if i < 2 else 254))
    data = opened(url, classes={"segmentation": "2"})
    with pytest.raises(BadExample, match=r"p002.*segmentation: holds class 254, the highest is 1$"):
        _ = data[2]
    absurd = encoded(grey(np.full((6, 8), 1 << 30), np.int32), "TIFF")
    data = opened(folder(tmp_path / "b", 3, "seg.png", lambda i: absurd if i == 1 else flat(1)))
    assert data.classes == {"segmentation": 2}  # and not a billion
    with pytest.raises(BadExample, match="holds class 1073741824"):
        _ = data[1]


def test_erased_parts_of_a_photograph_are_the_holes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[1:4, 2:5, 3] = 0
    pixels[5, 7, 3] = 100
    mask = images.decode_mask(encoded(Image.fromarray(pixels)), "photo.png")
    assert (mask == 255 - pixels[..., 3]).all() and (mask >= 128).sum() == 10
    grey = np.stack([pixels[..., 0], pixels[..., 3]], -1)
    assert (images.decode_mask(encoded(Image.fromarray(grey, "LA")), "grey.png") == mask).all()
    pixels[..., :3] = 255  # white on nothing: drawn holes, or an erased sheet
    with pytest.raises(DataError, match=r"white\.png: a mask with transparent pixels"):
        images.decode_mask(encoded(Image.fromarray(pixels)), "white.png")
