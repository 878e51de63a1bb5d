"""Files made to do harm: huge when decoded, other formats in disguise, tars whose headers lie. All are refused."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.geometry import fit, shape_of
from ldm_core.data.records import pictures, sources
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad, printable
from ldm_core.errors import DataError

SITE = Site(size=(16, 16))


def png(width: int, height: int, body: bytes = b"", **chunks: bytes) -> bytes:
    """A PNG of grey pixels that says any size, with any bytes for pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    extra = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(kind: str, size: tuple[int, int] = (12, 9)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (250, 9, 9)).save(buffer, format=kind)
    return buffer.getvalue()


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], good: int = 0) -> str:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(good):
            member = tarfile.TarInfo(f"good{number}.png")
            data = encoded("PNG")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python and numpy took at most while `work` ran (not what PIL took by itself)."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("decode", [images.decode_image, images.decode_labels])
def test_a_small_file_with_a_huge_picture_is_refused_before_it_is_decoded(decode: Any) -> None:
    bomb = png(60_000, 60_000, zlib.compress(bytes(1 << 20)))

    def refused() -> None:
        with pytest.raises(DataError, match=r"bomb: .*more than 100,000,000 pixels; make it smaller"):
            decode(bomb, name="bomb")

    assert len(bomb) < 3000 and peak(refused) < 20 << 20
    for width, height in ((10_001, 10_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(DataError, match=r"more than 100,000,000 pixels|damaged|not a picture"):
            decode(png(width, height), name="bomb")


def test_text_in_a_picture_that_grows_is_refused() -> None:
    """A compressed comment of 200 MB in 200 kB."""
    text = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    bomb = png(1, 1, zlib.compress(b"\0\0"), zTXt=text)

    def refused() -> None:
        with pytest.raises(DataError):
            images.decode_image(bomb)

    assert len(bomb) < 400_000 and peak(refused) < 20 << 20


def test_more_pixel_data_than_the_size_says_is_not_unpacked() -> None:
    bomb = png(4, 4, zlib.compress(bytes(100 << 20), 9))
    assert peak(lambda: images.decode_image(bomb)) < 20 << 20


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "SGI", "PCX"])
def test_only_formats_of_the_list_are_opened_whatever_their_name(kind: str, tmp_path: Path) -> None:
    """PIL would start Ghostscript for an EPS, and more formats are more to attack."""
    if kind == "ICNS":
        data = b"icns" + struct.pack(">I", 8)
    else:
        data = encoded(kind)
    with pytest.raises(DataError, match="not a picture"):
        images.decode_image(data)
    assert images.picture_size(data) is None
    for known in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        assert images.decode_image(encoded(known)).shape == (3, 9, 12)


def test_names_that_leave_the_archive_are_refused(tmp_path: Path) -> None:
    for name in ("/abs.png", "../up.png", "a/../../b.png", "..\\up.png", "C:\\x.png", "c:/x.png", "\\\\host\\x.png"):
        member = tarfile.TarInfo(name)
        with pytest.raises(DataError, match="points outside the tar") as caught:
            TarDataset(TarConfig(url=tar_of(tmp_path / "a.tar", (member, b""))), SITE)
        assert name.split("\\")[-1] in str(caught.value)


def test_a_name_with_control_characters_does_not_reach_the_terminal(tmp_path: Path) -> None:
    member = tarfile.TarInfo("../\x1b[2Jred\n.png")
    with pytest.raises(DataError) as caught:
        TarDataset(TarConfig(url=tar_of(tmp_path / "a.tar", (member, b""))), SITE)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert printable("a\tb\x1b") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    member = tarfile.TarInfo("\x1b[2Jbad\n.png")
    data = TarDataset(TarConfig(url=tar_of(tmp_path / "b.tar", (member, b""), good=1)), SITE)
    with pytest.raises(TooManyBad) as caught:
        _ = SkipBad(data, 0.0)[1]
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_members_with_absurd_sizes_are_refused(tmp_path: Path) -> None:
    """A size of 8 EB in the old octal, the base-256 and the PAX form; a negative one."""
    path = tmp_path / "a.tar"
    for size in (8**11 - 1, 2**62):
        member = tarfile.TarInfo("big.png")
        member.size = size
        whole = member.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
        path.write_bytes(whole)
        with pytest.raises(DataError, match="cut off"):
            TarDataset(TarConfig(url=str(path)), SITE)
    member = tarfile.TarInfo("pax.png")
    member.pax_headers = {"size": str(2**62)}
    with pytest.raises(DataError, match=r"cut off|not a plain tar|no sense"):
        TarDataset(TarConfig(url=tar_of(path, (member, b""))), SITE)
    header = bytearray(tarfile.TarInfo("neg.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12  # base 256: minus one
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(bytes(header) + bytes(2048))
    with pytest.raises(DataError):
        TarDataset(TarConfig(url=str(path)), SITE)


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    """A terabyte of holes that takes no room in the archive."""
    member = tarfile.TarInfo("holes.png")
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes.png",
        "GNU.sparse.realsize": str(1 << 40),
    }  # fmt: skip
    data = b"1\n0\n0\n".ljust(512, b"\0")
    member.size = len(data)
    with pytest.raises(DataError, match="holes"):
        TarDataset(TarConfig(url=tar_of(tmp_path / "a.tar", (member, data))), SITE)


def test_headers_that_follow_each_other_without_an_end_are_refused(tmp_path: Path) -> None:
    """Each long-name header is resolved inside the one before: thousands of them would pass Python's stack."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4
    block = header.tobuf(tarfile.GNU_FORMAT) + b"a.p\0".ljust(512, b"\0")
    path = tmp_path / "a.tar"
    path.write_bytes(block * 5000 + bytes(2048))
    with pytest.raises(DataError, match=r"a\.tar: (refused: its headers make no sense|not a plain tar|.*cut off)"):
        TarDataset(TarConfig(url=str(path)), SITE)


def test_huge_annotations_are_bad_examples_and_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_TEXT", 1000)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded("PNG"))
        (tmp_path / f"{i}.txt").write_bytes(b"x" * (5000 if i == 1 else 5))
        (tmp_path / f"{i}.json").write_text(json.dumps({"note": "y" * (5000 if i == 2 else 5)}))
    data = FolderDataset(FolderConfig(url=str(tmp_path), read={"note": "note"}), SITE)
    assert data.select(["note"])[0]["note"] == "yyyyy"
    with pytest.raises(BadExample, match=r"1\.png: caption: \.txt has 5,000 bytes, at most 1,000 are read"):
        _ = data.select(["caption"])[1]
    with pytest.raises(BadExample, match=r"2\.png: \.json has"):
        _ = data.select(["note"])[2]
    monkeypatch.setattr(pictures, "MOST_PICTURE", 20)
    with pytest.raises(BadExample, match=r"0\.png: \.png has \d+ bytes, at most 20 are read"):
        _ = data.select(["image"])[0]


def test_json_without_a_bottom_is_a_bad_example(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    (tmp_path / "a.json").write_text('{"caption": "fine"}')
    (tmp_path / "b.json").write_text("[" * 100_000)
    data = FolderDataset(FolderConfig(url=str(tmp_path)), SITE)
    with pytest.raises(BadExample, match=r"b\.png: "):
        _ = data.select(["caption"])[1]


def test_rows_name_no_file_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.png").write_bytes(encoded("PNG"))
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        (inside / "metadata.jsonl").write_text(json.dumps({"file_name": name}))
        with pytest.raises(DataError, match="is not there"):
            FolderDataset(FolderConfig(url=str(inside)), SITE)


# --------------------------------------------------------------------------------- sizes, and decoding less


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_header_says_the_size(kind: str) -> None:
    data = encoded(kind, (640, 480))
    assert images.picture_size(data) == (480, 640) == images.decode_image(data).shape[1:]
    assert images.picture_size(data[:8]) is None and images.picture_size(b"") is None


def turned(orientation: int, size: tuple[int, int] = (640, 400)) -> bytes:
    """A JPEG of a smooth ramp, to be turned by its EXIF orientation."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    picture = np.stack([rows * 255 // size[1], columns * 255 // size[0], rows * 0 + 90], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_is_decoded_at_the_size_that_is_enough(orientation: int, tmp_path: Path) -> None:
    data = turned(orientation)
    (tmp_path / "a.jpg").write_bytes(data)
    whole = FolderDataset(FolderConfig(url=str(tmp_path)), SITE)
    native = whole[0]["image"].shape[1:]
    assert native == ((400, 640) if orientation < 5 else (640, 400)) == tuple(whole.image_sizes()[0])
    # 40 x 40 by cropping: 40 pixels on the short side, 80 kept, 400 / 4 = 100 decoded
    for size, rule, smallest, share in (
        ((40, 40), "crop", 1.0, 4),
        ((24, 24), "crop", 1.0, 8),
        ((40, 40), "crop", 0.5, 2),
        ((40, 40), "pad", 1.0, 8),
        ((150, 150), "crop", 1.0, 1),
    ):
        less = whole.reduced([size, (8, 8)], rule, smallest)[0]["image"]  # type: ignore[arg-type]
        assert shape_of(less) == (native[0] // share, native[1] // share)
        kinds = {"image": "image"}
        one, two = (fit({"image": image}, kinds, size, rule)["image"] for image in (whole[0]["image"], less))  # type: ignore[arg-type]
        assert np.abs(one.astype(int) - two).mean() < 1


def test_a_picture_that_belongs_to_a_map_keeps_its_shape(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(turned(1))
    (tmp_path / "a.seg.png").write_bytes(images.png_bytes(np.zeros((1, 400, 640), np.uint8)))
    data = FolderDataset(FolderConfig(url=str(tmp_path)), SITE)
    both = data.select(["image", "segmentation"]).reduced([(24, 24)], "crop", 1.0)[0]
    assert shape_of(both["image"]) == both["segmentation"].shape == (400, 640)
    assert shape_of(data.select(["image"]).reduced([(24, 24)], "crop", 1.0)[0]["image"]) == (50, 80)
