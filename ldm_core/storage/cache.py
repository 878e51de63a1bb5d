"""A local folder with copies of remote files, up to a limit of bytes: the least recently used make room. No torch.

Several processes may share it. A copy has its whole size or is not there under its name: it is filled under another one
by the one process with its lock. Locks are the kernel's (flock) and end with their process; without them (Windows), a
file may be fetched twice, and is still whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ldm_core import storage
from ldm_core.errors import ConfigError, StorageError
from ldm_core.storage import local

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_TOUCH = 60.0  # seconds between notes that a copy is in use
_FREE = 0.1  # share of the limit that is free after making room, so that room is not made for every file
_CHUNK = 8 << 20
_ASK_AGAIN = 1 << 20  # bytes from which a file's mark is asked for again after reading it


class DataCache:
    """Copies of remote files in `folder` (a local path), together at most `limit` bytes. `setting` is the name in
    errors of the user's setting."""

    def __init__(self, folder: str, limit: int, setting: str = "data.cache") -> None:
        path = storage.local_path(folder)
        if path is None:
            raise ConfigError(f"{setting}: {storage.shown(folder)} is remote; give a folder on a local disk")
        self.folder, self.limit, self._setting = path, limit, setting
        self._touched: dict[Path, float] = {}

    def copy(self, file: storage.FileInfo) -> Path | None:
        """The local copy of `file`, fetched now if need be; None for a local file, or one larger than the limit.

        It is known by URL, size and mark (ETag): a changed file is another one. A query, perhaps a signature of today,
        counts if there is no mark. The copy may be removed at any time: open it at once, and ask again if it is gone.
        """
        if storage.local_path(file.url) is not None or file.size > self.limit:
            return None
        name = _digest(storage.shown(file.url) if file.mark else file.url, file.size, file.mark)
        target = self.folder / name[:2] / name
        if not self._whole(target, file.size):
            with self._locked(target.with_suffix(".lock")):
                if not self._whole(target, file.size):
                    self._fetch(file, target)
        self._touch(target)
        return target

    def recall(self, *key: object) -> bytes | None:
        """The value under `key`; None if there is none, or a damaged one."""
        path = self._note(key)
        try:
            data = local.read(path)
        except OSError:
            return None
        if data[:32] != hashlib.sha256(data[32:]).digest():
            return None
        self._touch(path)
        return data[32:]

    def remember(self, data: bytes, *key: object) -> None:
        """Keep something small and slow to find out, such as an index."""
        if len(data) + 32 <= self.limit:
            self._make_room(len(data) + 32)
            storage.atomic_write(str(self._note(key)), hashlib.sha256(data).digest() + data)

    def _note(self, key: tuple[object, ...]) -> Path:
        name = _digest(*key)
        return self.folder / name[:2] / f"{name}.note"

    @staticmethod
    def _whole(path: Path, size: int) -> bool:
        try:
            return local.size(path) == size
        except OSError:
            return False

    def _touch(self, path: Path) -> None:
        now = time.time()
        if now - self._touched.get(path, 0) > _TOUCH:
            self._touched[path] = now
            with contextlib.suppress(OSError):
                os.utime(path)

    def _fetch(self, file: storage.FileInfo, target: Path) -> None:
        part = target.with_suffix(".part")
        self._make_room(file.size, part)
        got = 0
        try:
            with storage.open_read(file.url) as source, self._made(part, "r+b") as copy:
                while data := source.read(_CHUNK):
                    got += len(data)
                    with self._writing(part):
                        copy.write(data)
                with self._writing(part):
                    copy.flush()
                    os.fsync(copy.fileno())
            now = storage.info(file.url) if got >= _ASK_AGAIN else file
            if (got, now.mark) != (file.size, file.mark):
                where = storage.shown(file.url)
                raise StorageError(f"cannot read {where}: it was changed since the start; start again")
            with self._writing(target):
                os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------ room

    def _make_room(self, size: int, part: Path | None = None) -> None:
        """Remove the least recently used copies if `size` bytes more would pass the limit; `part` is made, empty but of
        that size, so that other processes count it from now on.

        The total is counted in a file; files are looked at only when it says too many, and then leftovers of killed
        processes are found too.
        """
        with self._locked(self.folder / "room.lock"):
            counter = self.folder / "room"
            used = self._counted(counter)
            if used is None or used + size > self.limit:
                used = self._evict(size)
            with self._made(counter, "wb") as noted, self._writing(counter):
                noted.write(str(used + size).encode())
            if part is not None:
                with self._made(part, "wb") as reserved, self._writing(part):
                    reserved.truncate(size)

    @staticmethod
    def _counted(counter: Path) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(local.read(counter, most=30))
        return None

    def _evict(self, size: int) -> int:
        found, total = [], 0
        for path in self.folder.glob("??/*"):
            if path.suffix == ".lock":
                continue
            with contextlib.suppress(OSError):
                state = path.stat()
                total += state.st_size
                if path.suffix != ".part" or self._abandoned(path):
                    found.append((state.st_mtime, state.st_size, path))
        if total + size <= self.limit:
            return total
        for _, length, path in sorted(found, key=lambda each: each[0]):
            if total + size <= (1 - _FREE) * self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= length
        return total

    @staticmethod
    def _abandoned(part: Path) -> bool:
        """True if its filling process is gone: its lock is free."""
        if fcntl is None:
            return False
        with contextlib.suppress(OSError), part.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with self._made(path, "ab") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _made(self, path: Path, mode: str) -> IO[bytes]:
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                local.require_regular(path.stat().st_mode)
            return path.open(mode)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}; see {self._setting}") from error


def _digest(*key: object) -> str:
    return hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogateescape")).hexdigest()
