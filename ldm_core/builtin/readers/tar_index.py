"""Index of WebDataset tars: shards by URL and split, members by header, unsafe and damaged ones refused."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import IO

import attrs

from ldm_core import storage
from ldm_core.builtin.readers.tar_headers import members
from ldm_core.data.records.guess import split_of
from ldm_core.data.records.store import Sample
from ldm_core.data.unreadable import printable
from ldm_core.errors import DataError, NoSplit, StorageError

_MEANS = {"valid": "val", "validation": "val", "dev": "val"}


@attrs.frozen(slots=True)
class Part:
    """Place of a member's bytes: number of the shard, offset and size in it."""

    shard: int
    offset: int
    size: int


def find_shards(url: str, split: str) -> tuple[list[str], list[str]]:
    """The shards of ``url`` (a tar, a pattern, a folder) and ``split``, and those passed over because their names lack
    a split beside others that have one."""
    found: list[str] = []
    for each in storage.expand(url):
        if each.lower().endswith(".tar"):
            found.append(each)
        elif re.search(r"\.(tgz|tar\.\w+)$", each.lower()):
            raise DataError(f"{storage.shown(each)}: a compressed tar; decompress it first")
        else:
            found += [entry.url for entry in _listed(each) if entry.url.lower().endswith(".tar")]
    if not found:
        seen = _seen(url)
        raise DataError(f"{storage.shown(url)}: no shards; looked for *.tar, found {seen}; check the URL")
    splits = [split_of(shard) for shard in found]
    if not any(splits):
        if split != "train":
            raise NoSplit(f"{storage.shown(url)}: no split '{split}'; no shard's name holds a split")
        return found, []
    named = {split} if split in splits else {word for word, means in _MEANS.items() if means == split}
    chosen = [shard for shard, its in zip(found, splits, strict=True) if its in named]
    if not chosen:
        others = ", ".join(sorted(set(splits) - {""}))
        raise NoSplit(f"{storage.shown(url)}: no shards of the split '{split}'; found {others}")
    return chosen, [shard for shard, its in zip(found, splits, strict=True) if not its]


def _listed(url: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(url)
    except StorageError as error:
        raise DataError(f"no data: {error}") from error


def _seen(url: str) -> str:
    path = storage.local_path(url)
    if (path is not None and not path.is_dir()) or any(sign in url for sign in "*{["):
        return "none by that name"
    names = [storage.base_name(entry.url) for entry in _listed(url)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more or "an empty folder"


def index_shard(file: IO[bytes], size: int, number: int, url: str) -> list[Sample]:
    """The samples of one shard, in its order. DataError where it is cut off, damaged or unsafe."""
    where = storage.shown(url)
    groups: dict[str, dict[str, Part]] = {}
    for member in members(file, size, where):
        name, extension = split_name(member.name)
        if not extension:
            continue
        parts = groups.setdefault(name, {})
        if extension in parts:
            raise DataError(f"{where}: '{printable(member.name)}' is there twice; build the shard again")
        parts[extension] = Part(number, member.offset, member.size)
    return [Sample(name, parts) for name, parts in groups.items()]


def split_name(name: str) -> tuple[str, str]:
    """``dir/a.seg.png`` -> (``dir/a``, ``seg.png``): a sample's name ends at the last part's first dot."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower() if stem else ""


def packed(samples: Iterable[Sample]) -> bytes:
    """An index as bytes, to be kept."""
    rows = [[s.name, {extension: [p.offset, p.size] for extension, p in s.parts.items()}] for s in samples]
    return zlib.compress(json.dumps(rows).encode(), 1)


def unpacked(data: bytes, number: int) -> list[Sample]:
    """The index that :func:`packed` made, of shard `number`."""
    rows: Sequence[tuple[str, dict[str, tuple[int, int]]]] = json.loads(zlib.decompress(data))
    return [Sample(name, {e: Part(number, *place) for e, place in parts.items()}) for name, parts in rows]
