"""Headers of tars: all forms as Python's tarfile reads them, tars put together, and sizes that lie."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.builtin.readers.tar_headers import BLOCK, MOST_HEADER, members
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.errors import DataError

PICTURE = images.png_bytes(np.full((3, 6, 6), 90, dtype=np.uint8))
END = bytes(2 * BLOCK)


def packed(names: list[str], form: int = tarfile.PAX_FORMAT, data: bytes = PICTURE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def header(name: str, kind: bytes, size: int, **patched: bytes) -> bytes:
    """A GNU header that says any size; `patched`: 'at124' -> bytes that replace those there."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[-BLOCK:])
    for place, data in patched.items():
        at = int(place.removeprefix("at"))
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def records(**values: str) -> bytes:
    out = b""
    for key, value in values.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        out += str(length).encode() + body
    return out


def listed(data: bytes) -> list[tuple[str, int, int]]:
    return [(m.name, m.offset, m.size) for m in members(io.BytesIO(data), len(data), "a.tar")]


def opened(path: Path) -> TarDataset:
    return TarDataset(TarConfig(url=str(path)), Site(size=(16, 16)))


NAMES = ["a.png", "dir/b.png", "x" * 120 + "/" + "y" * 90 + ".png", "größe/ß.png", "z" * 400 + ".png", "./c.png"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5000])
def test_members_are_those_that_tarfile_finds(form: int, size: int) -> None:
    names = [n for n in NAMES if form != tarfile.USTAR_FORMAT or len(n) < 250]
    data = packed(names, form, bytes(range(256)) * 20)[:0] + packed(names, form, b"\x07" * size)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert listed(data) == [(m.name, m.offset_data, m.size) for m in archive]


def test_folders_are_passed_over_and_old_headers_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(PICTURE)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(tmp_path / "in", "in")
    assert [name for name, _, _ in listed(buffer.getvalue())] == ["in/a.png"]
    old = header("b.png", b"\0", 3, at257=bytes(255)) + b"abc".ljust(BLOCK, b"\0") + END
    assert listed(old) == [("b.png", BLOCK, 3)]
    assert listed(header("c/", b"\0", 0, at257=bytes(255)) + old)[0][0] == "b.png"
    binary = header("d.png", b"0", 0, at124=b"\x80" + (700).to_bytes(11, "big")) + bytes(1024) + END
    assert listed(binary) == [("d.png", BLOCK, 700)]


# ----------------------------------------------------------------------------------------------- put together


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: a + b,
        lambda a, b: a + bytes(BLOCK) + b,
        lambda a, b: a.rstrip(b"\0").ljust(-(-len(a.rstrip(b"\0")) // BLOCK) * BLOCK, b"\0") + bytes(BLOCK) + b,
        lambda a, b: bytes(10_240) + a + b,
        lambda a, b: a + bytes(3 << 20) + b,
        lambda a, b: a + b + bytes(10_240),
        lambda a, b: a + packed([]) + b,
    ],
    ids=[
        "cat",
        "one more block",
        "one zero block",
        "an empty one first",
        "3 MB apart",
        "zeros behind",
        "empty between",
    ],
)
def test_tars_that_were_put_together_are_read_to_the_end(join: Callable[[bytes, bytes], bytes], tmp_path: Path) -> None:
    first, second = packed(["a0.png", "a1.png"], tarfile.GNU_FORMAT), packed(["b0.png", "größe/b1.png"])
    whole = join(first, second)
    (tmp_path / "x.tar").write_bytes(whole)
    data = opened(tmp_path / "x.tar")
    assert [data[i]["name"] for i in range(len(data))] == ["a0", "a1", "b0", "größe/b1"]
    assert all((data[i]["image"] == 90).all() for i in range(4))
    with tarfile.open(fileobj=io.BytesIO(whole), ignore_zeros=True) as archive:
        assert [name for name, _, _ in listed(whole)] == archive.getnames()
    url = "memory://joined/x.tar"
    storage.atomic_write(url, whole)
    assert len(TarDataset(TarConfig(url=url, keep_bytes=0), Site(size=(16, 16)))) == 4


@pytest.mark.parametrize(
    "behind", [b"rubbish", b"\x1f\x8b" * 900, b"x" * BLOCK, packed(["c.png"])[7:], b"<html>" * 200]
)
def test_what_is_no_tar_behind_the_end_is_said(behind: bytes, tmp_path: Path) -> None:
    whole = packed(["a.png"])
    (tmp_path / "x.tar").write_bytes(whole + behind)
    with pytest.raises(DataError, match=rf"x\.tar: behind the tar's end, from byte {len(whole)} on, .* no tar; cut it"):
        opened(tmp_path / "x.tar")


def test_the_second_of_two_is_watched_as_the_first(tmp_path: Path) -> None:
    first, second = packed(["a.png"]), packed(["b.png", "c.png"])
    (tmp_path / "x.tar").write_bytes(first + second[:700])
    with pytest.raises(DataError, match=r"x\.tar: the tar is cut off"):
        opened(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(first + second[:1024] + b"\x7f" * 300 + second[1324:])
    with pytest.raises(DataError, match=r"x\.tar: damaged at byte"):
        opened(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(first + packed(["../b.png"]))
    with pytest.raises(DataError, match="points outside the tar"):
        opened(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(first + first)
    with pytest.raises(DataError, match=r"'a\.png' is there twice"):
        opened(tmp_path / "x.tar")


def test_further_pictures_of_a_name_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(packed(["a.png", "a.jpg", "b.png", "c.webp", "c.bmp", "c.gif"]))
    line = opened(tmp_path / "x.tar").describe()
    assert "3 samples with image" in line and "left out: 3 x picture of a name that another one has (a.png)" in line
    both = TarDataset(TarConfig(url=str(tmp_path / "x.tar"), read={"other": ".png"}), Site(size=(16, 16)))
    assert "left out: 2 x picture" in both.describe()


# --------------------------------------------------------------------------------------------- other formats


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (gzip.compress, r"compressed with gzip, whatever its name says; decompress it first \(gzip -d\)"),
        (bz2.compress, r"bzip2.*bzip2 -d"),
        (lzma.compress, r"with xz.*xz -d"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data[4:], r"zstd.*zstd -d"),
        (lambda data: b"\x04\x22\x4d\x18" + data[4:], r"lz4"),
        (lambda data: b"PK\x03\x04" + data[4:], "a zip archive.*unzip"),
        (lambda data: b"<!doctype html><p>Sign in".ljust(2000), "a page"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".ljust(600), "git lfs pull"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "lz4", "zip", "html", "lfs"],
)
def test_other_formats_named_tar_are_named(make: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(make(packed([f"{i}.png" for i in range(200)])))
    with pytest.raises(DataError, match=r"x\.tar: not a plain tar file: it is .*" + said) as caught:
        opened(tmp_path / "x.tar")
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------- sizes that lie


def absurd() -> dict[str, bytes]:
    big, minus = b"\x80\0\0\0" + (1 << 62).to_bytes(8, "big"), b"\xff" * 12
    good = header("a.png", b"0", 0)
    cases = {}
    for kind in "LKxXg":
        cases[f"{kind} of 2^62"] = header("long", kind.encode(), 0, at124=big) + END
        cases[f"{kind} below 0"] = header("long", kind.encode(), 0, at124=minus) + END
        cases[f"{kind} above the limit"] = header("long", kind.encode(), MOST_HEADER + 1) + bytes(MOST_HEADER * 2)
        cases[f"{kind} past the end"] = header("long", kind.encode(), 900_000) + b"a" * 600
    for said in ("9" * 5000, str(2**62), "-1", "1e9", "", "0x10", "²"):
        body = records(size=said)
        padded = body.ljust(-(-len(body) // BLOCK) * BLOCK, b"\0")
        if said:
            cases[f"PAX size {said[:8]}"] = header("p", b"x", len(body)) + padded + good + END
    for name, body in {
        "no length": b"x path=a\n", "a length of 0": b"0 path=a\n", "a length past it": b"999 path=a\n",
        "no break": b"9 path=ab", "no value": b"7 path\n", "digits without end": b"1" * 5000,
    }.items():  # fmt: skip
        cases[f"PAX with {name}"] = (
            header("p", b"x", len(body)) + body.ljust(-(-len(body) // BLOCK) * BLOCK) + good + END
        )
    body = records(path="all.png")
    cases["a path for all"] = header("p", b"g", len(body)) + body.ljust(BLOCK, b"\0") + good + END
    cases["a million digits"] = header("p", b"x", MOST_HEADER) + b"7" * MOST_HEADER + good + END
    cases["a chain"] = (header("l", b"L", 4) + b"a.p\0".ljust(BLOCK, b"\0")) * 40 + good + END
    cases["a size in letters"] = header("a.png", b"0", 0, at124=b"zzzzzzzzzzz\0") + END
    cases["a member below 0"] = header("a.png", b"0", 0, at124=minus) + END
    cases["a member of 2^62"] = header("a.png", b"0", 0, at124=big) + END
    return cases


ABSURD = absurd()


@pytest.mark.parametrize("case", sorted(ABSURD))
def test_sizes_that_lie_are_a_line_and_take_no_memory(case: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(ABSURD[case])
    begun = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            opened(tmp_path / "x.tar")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(tmp_path / "x.tar")) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path)) and most < 8 << 20 and time.perf_counter() - begun < 5


def test_names_longer_than_a_line_are_cut(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(packed(["../" + "n" * 60_000 + ".png"]))
    with pytest.raises(DataError, match=r"member '\.\./nnn.*nnn\.png' points") as caught:
        opened(tmp_path / "x.tar")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("before", [b"", packed(["a.png"])], ids=["nothing", "a tar"])
def test_a_hole_behind_the_end_is_not_read(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(before)
        file.truncate(1 << 42)
        file.seek((1 << 41) + 3 * BLOCK)  # far behind, another tar
        file.write(packed(["b.png"]))
    began = time.monotonic()
    with path.open("rb") as opened:
        found = [member.name for member in members(opened, 1 << 42, "a.tar")]
    assert found == (["a.png", "b.png"] if before else ["b.png"]) and time.monotonic() - began < 5
