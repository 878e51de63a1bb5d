"""Whole remote files: read in parts side by side or by position, written in one piece or in parts, or only if new."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_core.errors import StorageError
from ldm_core.storage.attempts import Download, family
from ldm_core.storage.failures import ChangedError, ReplacedError
from ldm_core.storage.options import HUB, WEB, filesystem
from ldm_core.storage.parallel import at_once
from ldm_core.storage.paths import protocol, short
from ldm_core.storage.retry import retrying
from ldm_core.storage.upload import Upload, write_new, write_parts, write_whole

READ_PART = 32 * 2**20
"""Bytes of a request; a longer read is made of several, a few at a time."""
WRITE_PART = 16 * 2**20
"""Bytes of a part of an upload; a file of up to twice as many goes in one request. S3 takes 10,000 parts."""
BLOCK = 8 * 2**20
"""Bytes of one fetch, for a file read by position."""


def read(url: str, start: int, stop: int | None) -> bytes:
    """Bytes start..stop of a remote file (None: to its end)."""
    fs, inner = filesystem(url)

    def attempt() -> bytes:
        try:
            return _read(fs, inner, url, start, stop)
        except ReplacedError as error:
            raise ChangedError(str(error)) from error  # its parts are of two files: all of it again

    return retrying("read", url, attempt)


def _read(fs: Any, inner: str, url: str, start: int, stop: int | None) -> bytes:
    if not family(fs):
        return Download(fs, inner, start, stop).attempt()
    end = start + READ_PART if stop is None else min(stop, start + READ_PART)
    first = Download(fs, inner, start, stop if end == stop else None, most=READ_PART)
    data = retrying("read", url, first.attempt, first.progress)
    if len(data) > READ_PART:  # of a server without ranges
        return data if stop is None else data[: stop - start]
    if first.total is None and len(data) == end - start < (stop or end + 1) - start:
        endless = Download(fs, inner, start, stop)  # its server does not say where it ends
        return retrying("read", url, endless.attempt, endless.progress)
    total = first.total if first.total is not None else start + len(data)
    ends = total if stop is None else min(stop, total)
    if ends <= end:
        return data
    rest = [Download(fs, inner, at, min(at + READ_PART, ends), mark=first.mark) for at in range(end, ends, READ_PART)]
    parts = at_once(lambda each: retrying("read", url, each.attempt, each.progress), rest)
    return b"".join([data, *parts])


class RemoteFile(io.RawIOBase):
    """A remote file to read by position; what breaks on the way is tried again where it broke.

    ChangedError when the file is replaced while it is open.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._inner = filesystem(url)
        first = Download(self._fs, self._inner, 0, None, most=BLOCK)
        self._head = retrying("read", url, first.attempt, first.progress)
        self._mark, self._at = first.mark, 0
        if first.total is None and len(self._head) >= BLOCK:
            raise StorageError(f"cannot read {short(url)}: its server does not say how large it is; copy it")
        self._size = first.total if first.total is not None else len(self._head)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as in any file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, less at the end of the file; the number of bytes."""
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        if self._at < len(self._head):
            data = self._head[self._at : min(stop, len(self._head))]
        else:
            part = Download(self._fs, self._inner, self._at, stop, mark=self._mark)
            try:
                data = retrying("read", self._url, part.attempt, part.progress)
            except ReplacedError as error:
                raise StorageError(
                    f"cannot read {short(self._url)}: it was replaced while it was read; start again"
                ) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def write(url: str, data: bytes | Path) -> None:
    """Write a whole remote file from memory or from a local file; readers never see a part of it."""
    fs, inner = writable(url)
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    if family(fs) != "s3":
        if isinstance(data, Path):
            retrying("write", url, lambda: fs.put_file(str(data), inner))
        else:
            retrying("write", url, lambda: fs.pipe_file(inner, data))
        return
    bucket, key, _ = fs.split_path(inner)
    upload = Upload(fs, bucket, key, data, size, url)
    if size > 2 * WRITE_PART:
        write_parts(upload, max(WRITE_PART, -(-size // 9000)))
    else:
        write_whole(upload)


def writable(url: str) -> tuple[Any, str]:
    """:func:`~ldm_core.storage.options.filesystem` of a URL that is written to; web addresses and the Hub are not."""
    if protocol(url) in WEB:
        raise StorageError(f"cannot write {short(url)}: web addresses are only read; give a path or an s3:// URL")
    if protocol(url) == HUB:  # each file would be a commit of its own
        raise StorageError(
            f"cannot write {short(url)}: hf:// is only read; give a path or an s3:// URL; ldm-plugin-hub uploads a run"
        )
    return filesystem(url)


_CREATING = threading.Lock()  # fsspec's memory looks first and writes then


def create(url: str, data: bytes) -> bool:
    """Write a whole remote file unless there is one: whether it was written. On S3 by one conditional request."""
    fs, inner = writable(url)
    if family(fs) == "s3":
        bucket, key, _ = fs.split_path(inner)
        return write_new(Upload(fs, bucket, key, data, len(data), url), data)

    def attempt() -> bool:
        try:
            with _CREATING if protocol(url) == "memory" else contextlib.nullcontext():
                fs.pipe_file(inner, data, mode="create")
        except FileExistsError:
            return False
        return True

    return retrying("write", url, attempt)


def entries(url: str | os.PathLike[str], *, recursive: bool) -> list[dict[str, Any]]:
    """fsspec's details of the files in a remote folder, as they are now."""
    fs, inner = filesystem(url)

    def attempt() -> list[dict[str, Any]]:
        fs.invalidate_cache()
        found = list(fs.find(inner, detail=True).values()) if recursive else fs.ls(inner, detail=True)
        return [entry for entry in found if entry["type"] != "directory" and not is_marker(entry)]

    return retrying("list", url, attempt)


def is_marker(entry: Mapping[str, Any]) -> bool:
    """True if an object stands for a folder, as browsers of S3 make them: no bytes, and a name with a "/" at its
    end."""
    return str(entry["name"]).endswith("/") and not entry.get("size")


def details(url: str | os.PathLike[str], doing: str = "read") -> dict[str, Any]:
    """fsspec's details of a remote file or folder, as they are now; FileNotFoundError where there is none."""
    fs, inner = filesystem(url)

    def attempt() -> dict[str, Any]:
        fs.invalidate_cache()
        try:
            out: dict[str, Any] = fs.info(inner)
            return out if out.get("size") is not None or family(fs) != "http" else {**out, **_web_details(fs, inner)}
        except PermissionError:
            if family(fs) == "s3" and fs.split_path(inner)[1]:
                Download(fs, inner, 0, 1).attempt()  # an answer without a body does not say why; this one does
            raise
        except FileNotFoundError:
            if family(fs) != "http":
                raise
            return _web_details(fs, inner)

    return retrying(doing, url, attempt)


def _web_details(fs: Any, inner: str) -> dict[str, Any]:
    """For servers without a HEAD; fsspec also calls every failure a missing file."""
    first = Download(fs, inner, 0, 1)
    first.attempt()
    return {"name": inner, "size": first.total, "type": "file", "ETag": first.mark}


def is_folder(url: str | os.PathLike[str]) -> bool:
    """True if anything lies under a remote URL."""
    fs, inner = filesystem(url)

    def attempt() -> bool:
        fs.invalidate_cache()
        if family(fs) == HUB:  # whose isdir calls every failure no folder
            return bool(fs.info(inner)["type"] == "directory")
        if family(fs) != "s3":
            return bool(fs.isdir(inner))
        bucket, key, _ = fs.split_path(inner)
        prefix = key.rstrip("/") + "/" if key.strip("/") else ""
        found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(found.get("Contents")) or not prefix

    try:
        return retrying("look for", url, attempt)
    except FileNotFoundError:
        return False


def delete(url: str | os.PathLike[str], *, recursive: bool) -> None:
    """Delete a remote file, or the files under a folder; FileNotFoundError if there are none."""
    fs, inner = writable(os.fspath(url))

    def attempt() -> None:
        fs.invalidate_cache()
        if family(fs) != "s3":
            fs.rm(inner, recursive=recursive)
            return
        bucket, key, _ = fs.split_path(inner)
        if not recursive:
            fs.call_s3("delete_object", Bucket=bucket, Key=key)
            return
        keys = [fs.split_path(entry["name"])[1] for entry in fs.find(inner, detail=True).values()]
        for batch in _batches(keys, 1000):
            objects = {"Objects": [{"Key": each} for each in batch], "Quiet": True}
            answer = fs.call_s3("delete_objects", Bucket=bucket, Delete=objects)
            if errors := answer.get("Errors"):  # the answer is 200 all the same, and s3fs would keep quiet
                raise PermissionError(f"{errors[0].get('Code')}: {errors[0].get('Key')}")

    retrying("delete", url, attempt)


def _batches(keys: list[str], size: int) -> Iterator[list[str]]:
    return (keys[at : at + size] for at in range(0, len(keys), size))
