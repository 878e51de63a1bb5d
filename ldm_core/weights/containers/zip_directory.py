"""The directory of a zip file, read by ourselves: every name, size and place is checked before anything is believed.

Python's `zipfile` accepts what no checkpoint has (files in front, overlapping members, names that point outside), and
another reader may see other contents in it. Source: PKWARE's APPNOTE, sections 4.3 and 4.5. Imports no torch.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import attrs

from ldm_core.errors import CheckpointError, UnsafeError
from ldm_core.weights.containers.tensor_bytes import read_block

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MOST_DIRECTORY = 64 << 20
_MOST_MEMBERS = 1_000_000
_LONGEST_NAME = 500
_FULL = 0xFFFFFFFF  # the number is in the zip64 field
_LINK, _TYPE = 0o120000, 0o170000


@attrs.frozen
class Member:
    """One stored file. `begin`: offset of its local header. `checksum`: CRC-32, None if the writer kept none."""

    name: str
    size: int
    begin: int
    checksum: int | None

    def fits(self, data: bytes) -> bool:
        """True if `data` is the whole content, as far as the checksum tells."""
        return self.checksum is None or zlib.crc32(data) == self.checksum


def members(url: str, path: Path, size: int) -> dict[str, Member]:
    """Every member by name, folders left out; CheckpointError where the directory is damaged or tricks a reader."""
    try:
        return _members(url, path, size)
    except (struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{url}: its zip directory does not read ({error}); was it cut short?") from None


def place(url: str, path: Path, member: Member) -> int:
    """Offset of the member's content; its local header must agree with the directory."""
    head = read_block(url, path, member.begin, _LOCAL.size).tobytes()
    mark, _, flags, method, _, _, crc, packed, plain, name, extra = _LOCAL.unpack(head)
    if mark != b"PK\x03\x04":
        raise CheckpointError(f"{url}: '{member.name}' is not where the zip directory says; the file is damaged")
    stored = read_block(url, path, member.begin + _LOCAL.size, name).tobytes()
    sizes_later = flags & 8 or _FULL in (packed, plain)
    agrees = stored == member.name.encode() and method == 0 and not flags & 1
    if not sizes_later:
        agrees = agrees and packed == plain == member.size and (member.checksum is None or crc == member.checksum)
    if not agrees:
        raise CheckpointError(f"{url}: the zip's two descriptions of '{member.name}' differ; the file is damaged")
    return member.begin + _LOCAL.size + name + extra


def _members(url: str, path: Path, size: int) -> dict[str, Member]:
    count, start, length = _directory(url, path, size)
    if length > _MOST_DIRECTORY or count > _MOST_MEMBERS:
        raise CheckpointError(f"{url}: its zip directory has {length:,} bytes for {count:,} members, too many")
    data = read_block(url, path, start, length).tobytes()
    found: list[Member] = []
    at = 0
    for _ in range(count):
        member, at = _entry(url, data, at, start)
        found.append(member)
    if at != length:
        raise CheckpointError(f"{url}: its zip directory has {length - at} bytes too many; the file is damaged")
    found.sort(key=lambda member: member.begin)
    if not found or found[0].begin != 0:
        raise CheckpointError(f"{url}: is a zip with something in front of it, or an empty one")
    for member, after in zip(found, [*(m.begin for m in found[1:]), start], strict=True):
        if member.begin + _LOCAL.size + len(member.name.encode()) + member.size > after:
            raise CheckpointError(f"{url}: '{member.name}' overlaps what lies behind it in the zip")
    if all(not member.checksum for member in found):  # torch can be told to compute none
        found = [attrs.evolve(member, checksum=None) for member in found]
    named = {member.name: member for member in found}
    folded = {name.lower() for name in named}
    if len(named) != len(found) or len(folded) != len(found):
        raise UnsafeError(
            f"{url}: refused: a name comes twice in the zip, so that another reader may see other contents"
        )
    return {name: member for name, member in named.items() if not name.endswith("/")}


def _directory(url: str, path: Path, size: int) -> tuple[int, int, int]:
    """Number of members, and offset of the directory. It ends the file: torch writes no comment."""
    tail = read_block(url, path, max(0, size - _END.size), min(size, _END.size)).tobytes()
    mark, disk, first_disk, here, count, length, start, comment = _END.unpack(tail)
    if mark != b"PK\x05\x06" or comment:
        raise CheckpointError(f"{url}: is a zip without its end; it was cut short, or has bytes behind it")
    end = size - _END.size
    locator = read_block(url, path, end - _LOCATOR.size, _LOCATOR.size).tobytes() if end >= _LOCATOR.size else b""
    if locator[:4] == b"PK\x06\x07":
        _, disk, place64, _ = _LOCATOR.unpack(locator)
        end -= _LOCATOR.size + _END64.size
        if place64 != end:
            raise CheckpointError(f"{url}: its zip64 record is not where it should be; the file is damaged")
        record = _END64.unpack(read_block(url, path, end, _END64.size).tobytes())
        mark, _, _, _, disk, first_disk, here, count, length, start = record
        if mark != b"PK\x06\x06":
            raise CheckpointError(f"{url}: its zip64 record does not read; the file is damaged")
    if disk or first_disk or here != count or start + length != end:
        raise CheckpointError(f"{url}: the end of the zip does not fit the file; it was cut short or changed")
    return count, start, length


def _entry(url: str, data: bytes, at: int, limit: int) -> tuple[Member, int]:
    fields = _ENTRY.unpack_from(data, at)
    mark, made, _, flags, method, _, _, crc, packed, plain, n, extra, comment, disk, _, attributes, begin = fields
    at += _ENTRY.size
    after = at + n + extra + comment
    if mark != b"PK\x01\x02" or after > len(data) or n > _LONGEST_NAME:
        raise CheckpointError(f"{url}: its zip directory does not read; the file is damaged")
    name = data[at : at + n].decode("utf-8")
    plain, packed, begin = _wide(data[at + n : at + n + extra], plain, packed, begin)
    shown = "".join(c if c.isprintable() else "?" for c in name[:100])
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or any(p in ("", ".", "..") or "\\" in p or ":" in p for p in parts):
        raise UnsafeError(f"{url}: refused: the zip member '{shown}' points outside of the archive, or nowhere")
    if made >> 8 in (3, 19) and (attributes >> 16) & _TYPE == _LINK:
        raise UnsafeError(f"{url}: refused: the zip member '{shown}' is a link")
    if flags & 1 or method or packed != plain:
        how = "encrypted" if flags & 1 else "compressed"
        raise CheckpointError(f"{url}: the zip member '{shown}' is {how}, as torch.save never does; unpack it yourself")
    if disk or begin + _LOCAL.size + n + plain > limit:
        raise CheckpointError(f"{url}: the zip member '{shown}' reaches beyond the file; it was cut short or changed")
    return Member(name, plain, begin, crc), after


def _wide(extra: bytes, plain: int, packed: int, begin: int) -> tuple[int, int, int]:
    """Numbers of 64 bits from the extra field, where the short ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra[at + 4 : at + 4 + length]))
            plain = wide.pop(0) if plain == _FULL and wide else plain
            packed = wide.pop(0) if packed == _FULL and wide else packed
            begin = wide.pop(0) if begin == _FULL and wide else begin
        at += 4 + length
    return plain, packed, begin
