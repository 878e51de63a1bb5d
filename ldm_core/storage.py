"""Reading and writing by path or fsspec URL, whole files only, with errors a user can act on.

A local path and a ``file://`` URL are the same thing. s3fs and its like are imported by fsspec when a URL
asks for them, never before. Every failure of a disk or a network is a
:class:`ldm_core.errors.StorageError` that names the URL without its credentials.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from ldm_core.errors import StorageError
from ldm_core.storage_paths import base_name, braces, is_glob, join, local_path, parent, protocol, shown

__all__ = [
    "FileInfo",
    "append_text",
    "atomic_path",
    "atomic_write",
    "base_name",
    "create",
    "exists",
    "expand",
    "filesystem",
    "info",
    "is_folder",
    "join",
    "list_files",
    "local_path",
    "make_folder",
    "open_read",
    "parent",
    "protocol",
    "read_bytes",
    "read_text",
    "remove",
    "shown",
]

_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of ldm-core that brings it
_NETWORK = ("botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "adlfs", "asyncio", "urllib3")


@attrs.frozen
class FileInfo:
    """One stored file: its URL, its size in bytes, and what else tells one content from another."""

    url: str
    size: int
    mark: str = ""
    """ETag or checksum where the storage has one. Not the time of change: a copy is the same data."""


@contextlib.contextmanager
def _reported(doing: str, url: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any failure of storage into a StorageError; let bugs through."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | TimeoutError | EOFError) and not _from_network(error):
            raise
        raise StorageError(f"cannot {doing} {shown(url)}: {_reason(error, os.fspath(url))}") from error


def _from_network(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__)


def _reason(error: Exception, url: str) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another place (nothing half-written was left)"
    if number == errno.EFBIG:
        return "the file-size limit was reached; raise it (ulimit -f) or choose another place"
    if number == errno.EROFS:
        return "the file system is read-only; choose another place"
    # over HTTP, fsspec calls every failure a file that was not found
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    if isinstance(cause, OSError) and _from_network(cause):
        return f"{shown(str(cause).partition(chr(10))[0])[:200]}; check the address and the network"
    if isinstance(error, FileNotFoundError):
        return "no such file or folder; check the spelling"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, a file was expected"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a part of its path is a file, not a folder"
    first = shown((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
    denied = isinstance(error, PermissionError) or "Forbidden" in first
    if denied or "credentials" in first.lower():
        fix = "check your credentials" if local_path(url) is None else "check who owns it"
        return f"permission denied ({first}); {fix}" if denied else f"{first}; set your credentials"
    if isinstance(error, TimeoutError):
        return f"no answer in time ({type(error).__name__}); check the network and try again"
    return first


def filesystem(url: str | os.PathLike[str]) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path in it; an error names the package that is missing."""
    import fsspec

    text = os.fspath(url)
    path = local_path(text)
    if path is not None:
        return fsspec.filesystem("file"), str(path.absolute())
    try:
        fs, inner = fsspec.core.url_to_fs(text)
    except ImportError as error:
        name = protocol(text)
        extra = _EXTRAS.get(name)
        fix = f"pip install 'ldm-core[{extra}]'" if extra else shown(str(error).splitlines()[0])
        raise StorageError(f"{shown(text)}: URLs of '{name}://' need another package: {fix}") from error
    except ValueError as error:
        raise StorageError(
            f"{shown(text)}: no storage called '{protocol(text)}://'; use a path, file://, s3://, https:// "
            "or another protocol that fsspec knows"
        ) from error
    except Exception as error:
        if not _from_network(error) and not isinstance(error, OSError):
            raise
        raise StorageError(f"cannot reach {shown(text)}: {_reason(error, text)}") from error
    return fs, inner


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether there is a file or folder."""
    path = local_path(url)
    if path is not None:
        return path.exists()
    fs, inner = filesystem(url)
    with _reported("look for", url):
        return bool(fs.exists(inner))


def is_folder(url: str | os.PathLike[str]) -> bool:
    """Whether it is a folder (remote: whether anything lies under it)."""
    path = local_path(url)
    if path is not None:
        return path.is_dir()
    fs, inner = filesystem(url)
    with _reported("look for", url):
        return bool(fs.isdir(inner))


def list_files(url: str | os.PathLike[str], *, recursive: bool = False) -> list[FileInfo]:
    """The files in a folder, sorted by URL, hidden ones left out; ``recursive`` goes into sub-folders."""
    fs, inner = filesystem(url)
    with _reported("list", url):
        if recursive:
            found = list(fs.find(inner, detail=True).values())
        else:
            found = [entry for entry in fs.ls(inner, detail=True) if entry["type"] == "file"]
    root = inner.rstrip("/") + "/"
    entries = [
        _info(fs, url, entry)
        for entry in found
        if not any(part.startswith(".") for part in entry["name"].removeprefix(root).split("/"))
    ]
    return sorted(entries, key=lambda entry: entry.url)


def _info(fs: Any, url: str | os.PathLike[str], entry: dict[str, Any]) -> FileInfo:
    name = entry["name"]
    full = name if local_path(url) is not None else fs.unstrip_protocol(name)
    mark = next((entry[key] for key in ("ETag", "etag", "md5", "sha256") if entry.get(key)), "")
    return FileInfo(full, int(entry.get("size") or 0), str(mark))


def info(url: str | os.PathLike[str]) -> FileInfo:
    """Size and mark of one file."""
    fs, inner = filesystem(url)
    with _reported("read", url):
        return attrs.evolve(_info(fs, url, fs.info(inner)), url=os.fspath(url))


def read_bytes(url: str | os.PathLike[str], start: int | None = None, stop: int | None = None) -> bytes:
    """The whole file, or its bytes start..stop."""
    path = local_path(url)
    with _reported("read", url):
        if path is not None:
            with path.open("rb") as file:
                file.seek(start or 0)
                return file.read() if stop is None else file.read(stop - (start or 0))
    fs, inner = filesystem(url)
    with _reported("read", url):
        return bytes(fs.cat_file(inner, start=start, end=stop))


def read_text(url: str | os.PathLike[str]) -> str:
    """The whole file as UTF-8 text; StorageError where it is something else."""
    try:
        return read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read {shown(url)}: it is not UTF-8 text ({error.reason})") from error


@contextlib.contextmanager
def open_read(url: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A seekable binary file; failures inside the block are reported as failures to read ``url``."""
    path = local_path(url)
    with _reported("read", url):
        if path is not None:
            with path.open("rb") as local:
                yield local
        else:
            fs, inner = filesystem(url)
            with fs.open(inner, "rb") as remote:
                yield remote


def make_folder(url: str | os.PathLike[str]) -> None:
    """Make the folder and those above it; nothing to do where storage has no folders."""
    path = local_path(url)
    with _reported("make the folder", url):
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
        elif protocol(os.fspath(url)) not in _EXTRAS:  # an object store would try to make a bucket
            fs, inner = filesystem(url)
            fs.makedirs(inner, exist_ok=True)


def remove(url: str | os.PathLike[str], *, recursive: bool = False) -> None:
    """Delete a file, or with ``recursive`` a folder; nothing happens if there is none."""
    fs, inner = filesystem(url)
    with _reported("delete", url), contextlib.suppress(FileNotFoundError):
        fs.rm(inner, recursive=recursive)


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
            with _reported("write", url):
                yield part
            fs, inner = filesystem(url)
            with _reported("write", url):
                fs.put_file(str(part), inner)
        return
    part = _part(target)
    try:
        with _reported("write", url):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):  # gone after a good write; never hide why a write failed
            part.unlink()


def atomic_write(url: str | os.PathLike[str], data: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a whole file or none: bytes, text (UTF-8), or a function that is handed a binary file to fill."""
    if local_path(url) is None and not callable(data):
        fs, inner = filesystem(url)
        with _reported("write", url):
            fs.pipe_file(inner, data.encode() if isinstance(data, str) else data)
        return
    with atomic_path(url) as part, part.open("wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data.encode() if isinstance(data, str) else data)


def _part(target: Path) -> Path:
    """A hidden name beside ``target`` that no other write has."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


_CREATING = threading.Lock()  # fsspec's memory looks first and writes then


def create(url: str | os.PathLike[str], data: bytes) -> bool:
    """Write a new file, whole, unless there is one already: False, and the one there is left as it is.

    Of several that try at once one gets True: on a local disk (a hard link to a finished file, or ``O_EXCL``
    where there are none), on S3 (a conditional put) and in memory. Other protocols look first and write then,
    if fsspec has nothing better for them. `data` should be unlike anyone else's (put a random word in it).
    """
    path = local_path(url)
    if path is not None:
        with _reported("write", url):
            return _create_local(path, data)
    fs, inner = filesystem(url)
    with _reported("write", url):
        try:
            with _CREATING if protocol(os.fspath(url)) == "memory" else contextlib.nullcontext():
                fs.pipe_file(inner, data, mode="create")
        except FileExistsError:
            return False
    return True


def _create_local(target: Path, data: bytes) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    try:
        _write_synced(part, data)
        try:
            os.link(part, target)  # unlike O_EXCL, nobody can see it half-written
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                raise
            return _create_exclusively(target, data)
        _sync_folder(target.parent)
        return True
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _create_exclusively(target: Path, data: bytes) -> bool:
    """For file systems without hard links."""
    try:
        _write_synced(target, data)
    except FileExistsError:
        return False
    _sync_folder(target.parent)
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise


def append_text(url: str | os.PathLike[str], text: str) -> None:
    """Add UTF-8 text to the end of a file. Object storage cannot append: there the file is written anew."""
    path = local_path(url)
    if path is None:
        atomic_write(url, (read_bytes(url) if exists(url) else b"") + text.encode())
        return
    with _reported("write", url):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def expand(url: str | os.PathLike[str]) -> list[str]:
    """The URLs that a pattern stands for: ``{000000..000003}``, ``{a,b}``, then ``*``, ``?`` and ``[...]``.

    A name that exists as written is taken as written. StorageError where a pattern matches nothing.
    """
    text = os.fspath(url)
    path = local_path(text)
    if path is not None and path.exists():
        return [str(path)]
    urls: list[str] = []
    for each in braces(text):
        urls += _glob(each) if is_glob(each) else [each if path is None else str(local_path(each))]
    return urls


def _glob(url: str) -> list[str]:
    fs, inner = filesystem(url)
    with _reported("list", url):
        found = sorted(fs.glob(inner))
    if not found:
        raise StorageError(f"{shown(url)}: nothing matches; check the folder and the pattern")
    return found if local_path(url) is not None else [fs.unstrip_protocol(name) for name in found]
