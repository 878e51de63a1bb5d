"""The folder of new pictures, one by one as they are done. Existing files stay. Torch-free.

Without a name the folder is a new one (``samples``, ``samples-2``, ...), and several commands at once never share one.
A named folder takes new files beside its own.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from ldm_core import storage
from ldm_core.errors import ConfigError, StorageError

_PROBE = bytes(1 << 16)


class PictureFolder:
    """A folder for new files at `url`; :meth:`take` makes one."""

    def __init__(self, url: str, *, force: bool, made: bool) -> None:
        self.url, self._force, self._made = url, force, made

    @classmethod
    def take(cls, out: str | None, default: str, names: Iterable[str], *, force: bool = False) -> PictureFolder:
        """Take the folder `out`, or a new one called `default` (``-2``, ``-3``, ... after the first).

        `names` are the files to come. Raises :class:`ConfigError` if `out` has one of them already and `force` is not
        given, :class:`StorageError` for a folder that refuses to be written to.
        """
        if out is None:
            return cls(_new_folder(default), force=force, made=True)
        path = storage.local_path(out)
        made = path is not None and not path.exists()
        try:
            require_writable(out)
        except StorageError:
            if made and path is not None:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
        if not force and not made:
            present = {storage.base_name(file.url) for file in _files(out)}
            if taken := [name for name in names if name in present]:
                few = ", ".join(taken[:3]) + (", ..." if len(taken) > 3 else "")
                raise ConfigError(
                    f"`out` {storage.shown(out)}: holds {few} already; give another folder, or `force` to overwrite"
                )
        return cls(out, force=force, made=made)

    def write(self, name: str, data: bytes) -> str:
        """Write a whole file and give its URL; :class:`StorageError` if another process has made it since."""
        url = storage.join(self.url, name)
        if self._force:
            storage.atomic_write(url, data)
        elif not storage.create(url, data):
            raise StorageError(f"{storage.shown(url)}: another command has written it meanwhile; give another folder")
        return url

    def write_beside(self, name: str, data: bytes) -> str:
        """Write a file under this name or the next free one (``grid-2.png``), and give its URL."""
        stem, dot, extension = name.rpartition(".")
        for number in range(1, 10_000):
            url = storage.join(self.url, name if number == 1 else f"{stem}-{number}{dot}{extension}")
            if self._force:
                storage.atomic_write(url, data)
                return url
            if storage.create(url, data):
                return url
        raise StorageError(f"{storage.shown(self.url)}: holds thousands of {name}; give another folder")

    def leave(self) -> None:
        """Remove the folder again if it was made here and is empty."""
        path = storage.local_path(self.url)
        if self._made and path is not None:
            with contextlib.suppress(OSError):
                path.rmdir()


def require_writable(folder: str) -> None:
    """Make the folder, write a small file there and remove it again; :class:`StorageError` if that fails."""
    path = storage.local_path(folder)
    if path is not None and path.exists() and not path.is_dir():
        raise StorageError(f"cannot write into {storage.shown(folder)}: it is a file; give a folder")
    storage.make_folder(folder)
    url = storage.join(folder, f".ldm-probe-{secrets.token_hex(6)}")
    try:
        storage.create(url, _PROBE if path is not None else b"probe")
    except StorageError as error:
        why = str(error).partition(": ")[2] or str(error)
        raise StorageError(f"cannot write into {storage.shown(folder)}: {why}") from error
    with contextlib.suppress(StorageError):  # may not be allowed to delete
        storage.remove(url)


def _new_folder(name: str) -> str:
    for number in range(1, 100_000):
        url = name if number == 1 else f"{name}-{number}"
        try:
            Path(url).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(f"cannot make the folder {url}: {error.strerror or error}; give `out`") from error
        try:
            require_writable(url)
        except StorageError:
            with contextlib.suppress(OSError):
                Path(url).rmdir()
            raise
        return url
    raise StorageError(f"there are too many folders named {name}; give `out`")


def _files(folder: str) -> list[storage.FileInfo]:
    if not storage.is_folder(folder):
        return []
    return storage.list_files(folder)
