"""Members of a tar, header by header, without its data: old, ustar, GNU and PAX forms, also of tars put together.

A header is anyone's: its sizes are compared with the file before a byte is read by them.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import IO

import attrs

from ldm_core.data.unreadable import printable
from ldm_core.errors import DataError

BLOCK = 512
MOST_HEADER = 1 << 20
"""Bytes of a long name or of PAX records; more are an attack or a mistake."""
_MOST_IN_A_ROW = 16  # headers that only say something of the next one
_STRIDE = 1 << 20  # bytes read at once where an end marker is followed by more
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_PAX, _PAX_OF_ALL = (b"x", b"X"), b"g"
_GNU = (b"L", b"K", b"S")
_MAGIC = {
    b"\x1f\x8b": ("compressed with gzip", "gzip -d"),
    b"BZh": ("compressed with bzip2", "bzip2 -d"),
    b"\xfd7zXZ\0": ("compressed with xz", "xz -d"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstd -d"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "lz4 -d"),
    b"\x1f\x9d": ("compressed with compress", "uncompress"),
    b"PK\x03\x04": ("a zip archive", "unzip it, or pack the files into a tar"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it, and pack the files into a tar"),
    b"Rar!": ("a RAR archive", "unpack it, and pack the files into a tar"),
    b"version https://git-lfs": ("a pointer of Git LFS", "git lfs pull"),
    b"<": ("a page or an XML document", "download the file itself"),
}


@attrs.frozen(slots=True)
class Member:
    """A file in a tar: its `name`, the start of its bytes and their number."""

    name: str
    offset: int
    size: int


class _Damaged(Exception):
    """An unreadable header."""


@attrs.frozen(slots=True)
class _Header:
    name: str
    kind: bytes
    size: int


def members(file: IO[bytes], size: int, where: str) -> Iterator[Member]:
    """The files of a tar of `size` bytes, in its order; of joined tars, those of all of them.

    DataError, naming `where` and the place, if it is cut off, damaged, compressed, or holds anything but plain files
    and folders with names inside of it.
    """
    place, started = 0, False
    while True:
        block = _at(file, place, BLOCK)
        if len(block) < BLOCK:
            raise DataError(cut_off(where, size))
        if not block.strip(b"\0"):
            following = _behind(file, place, size)
            if following is None:
                return
            place, block = following, _at(file, following, BLOCK)
            started = False
        try:
            member, place = _member(file, place, size, where)
        except _Damaged as error:
            raise DataError(_damage(block, place, where, started)) from error
        started = True
        if member is not None:
            yield member


def _member(file: IO[bytes], place: int, size: int, where: str) -> tuple[Member | None, int]:
    """The member with its first header at `place` (None for a folder), and the place of the next header."""
    begin, name, records = place, "", dict[str, str]()
    for _ in range(_MOST_IN_A_ROW):
        header = _parsed(_at(file, place, BLOCK))
        place += BLOCK
        if header.kind in (_LONG_NAME, _LONG_LINK, _PAX_OF_ALL, *_PAX):
            data = _words(file, header, place, size, where)
            place += _padded(header.size)
            if header.kind == _LONG_NAME:
                name = _text(data)
            elif header.kind != _LONG_LINK:
                records |= _records(data, of_all=header.kind == _PAX_OF_ALL)
            if header.kind == _PAX_OF_ALL:
                return None, place
            continue
        return _end(header, name, records, place, size, where)
    raise DataError(f"{where}: refused: its headers make no sense (byte {begin}: they never end); build it again")


def _end(
    header: _Header, name: str, records: Mapping[str, str], place: int, size: int, where: str
) -> tuple[Member | None, int]:
    """The member of a header right before its data, with the facts of the headers before it."""
    name = records.get("path", "").rstrip("/") or name or header.name
    said = records.get("size", "")
    length = header.size if not said else int(said) if said.isascii() and said.isdigit() and len(said) < 20 else -1
    if header.kind == _FOLDER or (header.kind == b"\0" and name.endswith("/")):
        return None, place
    _safe(name, where)
    if header.kind not in _FILES or any(key.startswith("GNU.sparse.") for key in records):
        raise DataError(
            f"{where}: refused: member '{_shown(name)}' is a link or a device, or has holes; store plain files"
        )
    if length < 0:
        raise DataError(f"{where}: refused: member '{_shown(name)}' has a size below 0; build it again")
    if place + length > size:
        raise DataError(cut_off(where, size, name))
    if place + _padded(length) > size:
        raise DataError(cut_off(where, size))
    return Member(name, place, length), place + _padded(length)


def _words(file: IO[bytes], header: _Header, place: int, size: int, where: str) -> bytes:
    """Content of a header about the next one; refused, before it is read, if it is far too long."""
    if not 0 <= header.size <= MOST_HEADER:
        raise DataError(
            f"{where}: refused: a name or other words of {header.size:,} bytes in its headers, at most "
            f"{MOST_HEADER:,} are read; build it again"
        )
    if place + header.size > size:
        raise DataError(cut_off(where, size))
    return _at(file, place, header.size)


def _safe(name: str, where: str) -> None:
    outside = name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name
    if outside or re.match(r"[A-Za-z]:[\\/]", name):
        raise DataError(f"{where}: refused: member '{_shown(name)}' points outside the tar; rename it")


def _parsed(block: bytes) -> _Header:
    if len(block) < BLOCK:
        raise _Damaged
    stored = _number(block[148:156])
    rest = block[:148] + block[156:]
    unsigned = sum(rest) + 256
    if stored != unsigned and stored != unsigned - 256 * sum(byte > 127 for byte in rest):  # some summed signed bytes
        raise _Damaged
    kind, name = block[156:157], _text(block[:100])
    prefix = _text(block[345:500])
    if prefix and kind not in _GNU:
        name = f"{prefix}/{name}"
    return _Header(name, kind, _number(block[124:136]))


def _number(field: bytes) -> int:
    """Octal digits, or a binary number of two's complement behind a mark."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field[1:], "big") - (1 << 8 * (len(field) - 1))
    text = field.partition(b"\0")[0].strip()
    try:
        return int(text or b"0", 8)
    except ValueError as error:
        raise _Damaged from error


def _records(data: bytes, *, of_all: bool) -> dict[str, str]:
    """PAX records, ``LENGTH KEY=VALUE`` and a line break each; those of all members may not name or size them."""
    found: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place : place + 1] != b"\0":
        digits, space, _ = data[place : place + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[place + len(digits) + 1 : place + length - 1].partition(b"=")
        if not equals or place + length > len(data) or data[place + length - 1 : place + length] != b"\n":
            raise _Damaged
        found[_text(key)] = value.decode("utf-8", "surrogateescape")
        place += length
    if of_all and not found.keys().isdisjoint({"path", "size"}):
        raise _Damaged
    return found


def _behind(file: IO[bytes], place: int, size: int) -> int | None:
    """The first block behind an end marker at `place` beside zeros; None if there is none."""
    while (place := _stored(file, place, size)) < size:
        data = _at(file, place, min(_STRIDE, size - place))
        if not data:
            return None
        if (kept := data.lstrip(b"\0")) != b"":
            return place + (len(data) - len(kept)) // BLOCK * BLOCK
        place += len(data)
    return None


def _stored(file: IO[bytes], place: int, size: int) -> int:
    """The first block from `place` on stored by the disk; a hole may have any size, is zeros, and takes no room."""
    try:
        handle, hole = file.fileno(), os.SEEK_DATA
        before = os.lseek(handle, 0, os.SEEK_CUR)
    except (OSError, AttributeError):  # it is remote, in memory, or the system knows no holes
        return place
    try:
        return max(place, os.lseek(handle, place, hole) // BLOCK * BLOCK)
    except OSError as error:
        return size if error.errno == errno.ENXIO else place
    finally:
        os.lseek(handle, before, os.SEEK_SET)


def _damage(block: bytes, place: int, where: str, started: bool) -> str:
    if place == 0:
        for magic, (what, fix) in _MAGIC.items():
            if block.startswith(magic):
                return f"{where}: not a plain tar file: it is {what}, whatever its name says; {_do(fix)}"
        return f"{where}: not a plain tar file (no header at its beginning); build it again"
    if not started:
        return (
            f"{where}: behind the tar's end, from byte {place} on, there is something that is no tar; "
            "cut it off, or build the tar again"
        )
    return f"{where}: damaged at byte {place}; download it again"


def _do(fix: str) -> str:
    return f"decompress it first ({fix})" if fix.endswith("-d") or fix == "uncompress" else fix


def cut_off(where: str, size: int, name: str = "") -> str:
    """The line for a tar of `size` bytes with too early an end, inside the member `name` if there is one."""
    at = f" inside '{_shown(name)}'" if name else ""
    return f"{where}: the tar is cut off{at} ({size:,} bytes are there); download or build it again"


def _at(file: IO[bytes], place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _shown(name: str) -> str:
    return printable(name if len(name) <= 200 else f"{name[:120]}...{name[-60:]}")
