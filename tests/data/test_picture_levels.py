"""Pictures of more than 8 bits: what is white in them, and what the line that describes the data says."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import TINY

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.errors import DataError
from ldm_core.model.parts import make_dataset
from ldm_core.recipe.resolve import resolve
from ldm_core.training import workflow

SITE = Site(size=(16, 16))


def ramp(top: float, kind: Any = np.uint16) -> np.ndarray:
    return np.tile(np.linspace(0, top, 32), (8, 1)).astype(kind)


def encoded(levels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format=form)
    return buffer.getvalue()


def png16(levels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits a channel, (H, W, channels); `colour` 2: RGB, 4: grey and alpha, 6: RGB and alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def colour(top: int, channels: int) -> np.ndarray:
    planes = np.repeat(ramp(top)[..., None], channels, axis=2)
    if channels in (2, 4):
        planes[..., -1] = 65535
    return planes


def folder(path: Path, data: bytes, extension: str = "png", count: int = 5) -> FolderDataset:
    path.mkdir(exist_ok=True)
    for i in range(count):
        (path / f"{i}.{extension}").write_bytes(data)
    return FolderDataset(FolderConfig(url=str(path)), SITE)


@pytest.mark.parametrize(("top", "white"), [(255, 255), (900, 1023), (1023, 1023), (3800, 4095), (16383, 16383)])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_fewer_bits_is_said_and_set(top: int, white: int, form: str, tmp_path: Path) -> None:
    data = encoded(ramp(top), form)
    extension = {"PNG": "png", "TIFF": "tif"}[form]
    line = folder(tmp_path, data, extension).describe()
    assert f"16-bit grey pictures reach {top}, of 65535, so that they are dark" in line and "\n" not in line
    assert line.endswith(f"dataset.white_level={white}")
    config = FolderConfig(url=str(tmp_path), white_level=white)
    again = FolderDataset(config, SITE)
    assert "grey pictures" not in again.describe()
    expected = np.floor(ramp(top).astype(float) * 255 / white + 0.5)
    assert (again[0]["image"] == expected).all() and again[0]["image"].max() > 200
    small = again.select(["image"]).reduced([(16, 16)], "crop", 1.0)[0]["image"]
    assert (np.asarray(small)[..., 0] == expected).all()


def test_other_pictures_are_what_they_were(tmp_path: Path) -> None:
    whole = encoded(ramp(65535))
    data = folder(tmp_path / "whole", whole)
    assert "reach" not in data.describe() and (data[0]["image"] == ramp(65535) >> 8).all()
    assert "reach" not in folder(tmp_path / "half", encoded(ramp(30_000))).describe()
    assert "reach" not in folder(tmp_path / "eight", encoded(np.full((8, 8, 3), 3, np.uint8))).describe()  # a dark one
    assert "reach" not in folder(tmp_path / "grey", encoded(np.full((8, 8), 3, np.uint8))).describe()
    assert "reach" not in folder(tmp_path / "jpeg", encoded(np.full((8, 8), 3, np.uint8), "JPEG"), "jpg").describe()
    assert "reach" not in folder(tmp_path / "damaged", whole[:60]).describe()


def test_one_bright_picture_among_them_says_that_the_range_is_used(tmp_path: Path) -> None:
    folder(tmp_path, encoded(ramp(4000)), count=3)
    (tmp_path / "3.png").write_bytes(encoded(ramp(65535)))
    assert "reach" not in FolderDataset(FolderConfig(url=str(tmp_path)), SITE).describe()


@pytest.mark.parametrize("form", [2, 4, 6])
def test_colour_of_fewer_bits_is_said(form: int, tmp_path: Path) -> None:
    channels = {2: 3, 4: 2, 6: 4}[form]
    line = folder(tmp_path / "a", png16(colour(4095, channels), form)).describe()
    assert "16-bit colour pictures reach 3855, of 65535, so that they are dark" in line and "save them" in line
    assert "16-bit" not in folder(tmp_path / "b", png16(colour(65535, channels), form)).describe()


def test_wide_and_floating_point_tiffs(tmp_path: Path) -> None:
    wide = folder(tmp_path / "wide", encoded(ramp(1_000_000, np.int32), "TIFF"), "tiff")
    assert wide.describe().endswith(
        "32-bit grey pictures reach 1000000, of 65535, and all above 65535 is white; say which level is white, such as "
        "dataset.white_level=1000000"
    )
    whole = FolderDataset(FolderConfig(url=str(tmp_path / "wide"), white_level=1e6), SITE)
    assert whole[0]["image"][0, 0].tolist() == [int(n * 255 / 1e6 + 0.5) for n in ramp(1_000_000, np.int32)[0].tolist()]
    assert "dark" in folder(tmp_path / "low", encoded(ramp(2000, np.int32), "TIFF"), "tiff").describe()
    fine = encoded(ramp(1, np.float32), "TIFF")
    assert "reach" not in folder(tmp_path / "unit", fine, "tiff").describe()
    assert images.decode_image(fine).max() == 255
    assert (
        "floating-point grey pictures reach 3, of 255, so that"
        in folder(tmp_path / "hdr", encoded(ramp(3, np.float32), "TIFF"), "tiff").describe()
    )
    holes = ramp(1, np.float32)
    holes[0, :2] = np.nan, np.inf
    with pytest.raises(DataError, match=r"^scan: 2 of the \d+ levels of a floating-point picture are not finite"):
        images.decode_image(encoded(holes, "TIFF"), name="scan")
    bright = folder(tmp_path / "float", encoded(ramp(5000, np.float32), "TIFF"), "tiff")
    assert "floating-point grey pictures reach 5000, of 255, and all above 255 is white" in bright.describe()
    assert images.decode_image(encoded(ramp(5000, np.float32), "TIFF"), white=5000.0)[0, 0, -2] == 247


def test_data_of_tars_and_mixtures_say_it_too(tmp_path: Path) -> None:
    dark, fine = tmp_path / "dark", tmp_path / "fine"
    folder(dark, encoded(ramp(4095)))
    folder(fine, encoded(ramp(65535)))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(dark, "")
    assert "white_level=4095" in TarDataset(TarConfig(url=str(tmp_path / "x.tar")), SITE).describe()
    parts = [{"use": "folder", "url": str(url)} for url in (dark, fine)]
    recipe = resolve({**TINY, "dataset": parts}, Catalog.discover())
    line = make_dataset(recipe, Catalog.discover()).describe()
    assert line.count("dataset.0.white_level") == 1 and "; dark: 16-bit grey pictures reach 4095" in line


def test_the_check_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ldm_core.cli import main

    folder(tmp_path, encoded(ramp(4095)))
    assert main(["check", "--data", str(tmp_path), "--cond", "none"]) == 0
    assert "data: 16-bit grey pictures reach 4095" in " ".join(capsys.readouterr().err.split())
    assert main(["check", "--data", str(tmp_path), "--cond", "none", "dataset.white_level=4095"]) == 0
    said = capsys.readouterr()
    assert "16-bit" not in said.err and "white_level: 4095" in said.out


def test_the_setting_is_in_an_identity_only_where_it_is_set(tmp_path: Path) -> None:
    """Runs of before it was there stay what they are."""
    folder(tmp_path, encoded(ramp(4095)))
    plain = {**TINY, "dataset": {"use": "folder", "url": str(tmp_path)}}
    catalog = Catalog.discover()
    recipe, _ = workflow.prepare(plain, catalog)
    assert "white_level" not in recipe.public()["dataset"] and recipe.plain()["dataset"]["white_level"] == 0
    other, _ = workflow.prepare({**plain, "dataset": {**plain["dataset"], "white_level": 4095}}, catalog)
    assert other.public()["dataset"]["white_level"] == 4095
    assert recipe.identity() != other.identity() and recipe.first_stage_identity() != other.first_stage_identity()
    assert resolve(recipe.public(), catalog).identity() == recipe.identity()
    prints = [make_dataset(each, catalog).fingerprint() for each in (recipe, other)]
    assert prints[0] != prints[1]
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(Exception, match="white_level: expected a level above 0"):
            FolderConfig(url="x", white_level=wrong)
