"""Local and remote files, one function each."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import attrs

from ldm_core.errors import StorageError
from ldm_core.storage import local
from ldm_core.storage import transfer as remote
from ldm_core.storage.failures import reported
from ldm_core.storage.options import S3, filesystem
from ldm_core.storage.paths import base_name, braces, is_glob, local_path, protocol, short
from ldm_core.storage.retry import retrying

MOST_TEXT = 1 << 30
"""Most bytes of a text, unless the reader sets another limit."""


@attrs.frozen
class FileInfo:
    """One stored file: its URL, its size in bytes, and a mark of its content."""

    url: str
    size: int
    mark: str = ""
    """ETag or checksum if the storage has one. Not the time of change: a copy is the same data."""
    irregular: str = ""
    """The reason that it cannot be read (``a pipe``, ``a link to nothing``); "" for a file as it should be."""


def exists(url: str | os.PathLike[str]) -> bool:
    """True if there is a file or folder."""
    path = local_path(url)
    with reported("look for", url):
        if path is not None:
            return local.exists(path)
        try:
            remote.details(url, "look for")
        except FileNotFoundError:
            return False
        return True


def is_folder(url: str | os.PathLike[str]) -> bool:
    """True for a folder (remote: something lies under it)."""
    path = local_path(url)
    with reported("look for", url):
        return local.is_folder(path) if path is not None else remote.is_folder(url)


def list_files(url: str | os.PathLike[str], *, recursive: bool = False) -> list[FileInfo]:
    """The files in a folder, sorted by URL, hidden ones left out; ``recursive`` goes into sub-folders.

    On a local disk links are followed, and unreadable files are listed with the reason (``irregular``).
    """
    path = local_path(url)
    if path is not None:
        with reported("list", url):
            return _listed(path.absolute(), recursive)
    fs, inner = filesystem(url)
    with reported("list", url):
        found = remote.entries(url, recursive=recursive)
    root = inner.rstrip("/") + "/"
    entries = [
        _info(fs, entry)
        for entry in found
        if not any(part.startswith(".") for part in entry["name"].removeprefix(root).split("/"))
    ]
    return sorted(entries, key=lambda entry: entry.url)


def _listed(path: Path, recursive: bool) -> list[FileInfo]:
    if not local.is_folder(path) and (recursive or local.exists(path)):
        return [FileInfo(str(path), path.stat().st_size)] if local.exists(path) else []
    entries = (FileInfo(e.path, e.size, irregular=e.irregular) for e in local.entries(path, recursive=recursive))
    return sorted(entries, key=lambda entry: entry.url)


def _info(fs: Any, entry: dict[str, Any]) -> FileInfo:
    mark = next((entry[key] for key in ("ETag", "etag", "md5", "sha256", "blob_id") if entry.get(key)), "")
    return FileInfo(fs.unstrip_protocol(entry["name"]), int(entry.get("size") or 0), str(mark))


def info(url: str | os.PathLike[str]) -> FileInfo:
    """Size and mark of one file; of a local folder, the size is of no use."""
    path = local_path(url)
    with reported("read", url):
        if path is not None:
            return FileInfo(os.fspath(url), local.size(path))
        fs, _ = filesystem(url)
        return attrs.evolve(_info(fs, remote.details(url)), url=os.fspath(url))


def read_bytes(
    url: str | os.PathLike[str], start: int | None = None, stop: int | None = None, *, most: int | None = None
) -> bytes:
    """The whole file, or its bytes start..stop; StorageError above `most` bytes."""
    path, start = local_path(url), start or 0
    with reported("read", url):
        if path is not None:
            return local.read(path, start, stop, most)
        if most is None:
            return remote.read(os.fspath(url), start, stop)
        data = remote.read(os.fspath(url), start, start + most + 1 if stop is None else min(stop, start + most + 1))
        local.require_size(len(data), most)
        return data


def read_text(url: str | os.PathLike[str], *, most: int = MOST_TEXT) -> str:
    """The whole file as UTF-8 text; StorageError for anything else, or more than `most` bytes."""
    try:
        return read_bytes(url, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read {short(url)}: it is not UTF-8 text ({error.reason})") from error


@contextlib.contextmanager
def open_read(url: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A seekable binary file; failures inside the block are reported as failures to read ``url``."""
    path = local_path(url)
    with reported("read", url):
        if path is not None:
            with local.open_file(path) as file:
                yield file
        else:
            raw = remote.RemoteFile(os.fspath(url))
            with io.BufferedReader(raw, remote.BLOCK) as buffered:
                yield cast(BinaryIO, buffered)


def make_folder(url: str | os.PathLike[str]) -> None:
    """Make the folder and those above it; nothing to do if the storage has no folders."""
    path = local_path(url)
    with reported("make the folder", url):
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
        elif protocol(os.fspath(url)) not in S3:  # it has no folders, and fsspec would try to make a bucket
            fs, inner = remote.writable(os.fspath(url))
            retrying("make the folder", url, lambda: fs.makedirs(inner, exist_ok=True))


def remove(url: str | os.PathLike[str], *, recursive: bool = False) -> None:
    """Delete a file, or with ``recursive`` a folder; nothing happens if there is none."""
    with reported("delete", url), contextlib.suppress(FileNotFoundError):
        remote.delete(url, recursive=recursive)


@contextlib.contextmanager
def atomic_path(url: str | os.PathLike[str]) -> Iterator[Path]:
    """A local path to fill; it becomes ``url`` as a whole when the block ends well, and is removed otherwise.

    For code that writes to a path of its own (safetensors, matplotlib). Readers see the old file or the
    new one.
    """
    target = local_path(url)
    if target is None:
        with tempfile.TemporaryDirectory(prefix="ldm-") as folder:
            part = Path(folder) / (base_name(os.fspath(url)) or "file")
            with reported("write", url):
                yield part
            with reported("write", url):
                remote.write(os.fspath(url), part)
        return
    with reported("write", url):
        part = local.part_of(target)
    try:
        with reported("write", url):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            local.sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):  # gone after a good write; never hide why a write failed
            part.unlink()


def atomic_write(url: str | os.PathLike[str], data: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a whole file or none: bytes, text (UTF-8), or a function to fill a binary file."""
    if local_path(url) is None and not callable(data):
        with reported("write", url):
            remote.write(os.fspath(url), data.encode() if isinstance(data, str) else data)
        return
    with atomic_path(url) as part, part.open("wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data.encode() if isinstance(data, str) else data)


def create(url: str | os.PathLike[str], data: bytes) -> bool:
    """Write a new file, whole, unless there is one already: False, and the one there is left as it is.

    Of several that try at once one gets True: on a local disk (a hard link to a finished file, or ``O_EXCL``
    where there are none), on S3 (a conditional put) and in memory. Other protocols look first and write then,
    if fsspec has nothing better for them.
    """
    path = local_path(url)
    with reported("write", url):
        return local.create(path, data) if path is not None else remote.create(os.fspath(url), data)


def append_text(url: str | os.PathLike[str], text: str) -> None:
    """Add UTF-8 text to the end of a file. Object storage cannot append: there the file is written anew."""
    path = local_path(url)
    if path is None:
        atomic_write(url, (read_bytes(url) if exists(url) else b"") + text.encode())
        return
    with reported("write", url):
        local.append(path, text.encode())


def expand(url: str | os.PathLike[str]) -> list[str]:
    """The URLs of a pattern: ``{000000..000003}``, ``{a,b}``, then ``*``, ``?`` and ``[...]``.

    A name that exists as written is taken as written. StorageError if a pattern matches nothing.
    """
    text = os.fspath(url)
    path = local_path(text)
    if path is not None and exists(text):
        return [str(path)]
    urls: list[str] = []
    for each in braces(text):
        urls += _glob(each) if is_glob(each) else [each if path is None else str(local_path(each))]
    return urls


def _glob(url: str) -> list[str]:
    fs, inner = filesystem(url)

    def find() -> list[str]:
        fs.invalidate_cache()
        return sorted(name for name, entry in fs.glob(inner, detail=True).items() if not remote.is_marker(entry))

    with reported("list", url):
        found = retrying("list", url, find)
    if not found:
        raise StorageError(f"{short(url)}: nothing matches; check the folder and the pattern")
    return found if local_path(url) is not None else [fs.unstrip_protocol(name) for name in found]
