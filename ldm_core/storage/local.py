"""Files on a local disk: regular ones alone are read, new ones are written whole.

A pipe, a device or a socket in the place of a file would wait for ever, or never end. All reading of local files goes
through :func:`open_handle`: it refuses them, links to them too, without a race.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

import attrs

from ldm_core.storage.failures import IrregularError, TooLargeError

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_LEAST, _BLOCK = 64 << 10, 1 << 30  # bytes asked for at a time
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def irregular(mode: int) -> str:
    """The kind of a file by its ``st_mode``, neither a regular one nor a folder; "" for those two."""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def require_regular(mode: int) -> None:
    """IrregularError for a pipe, a device or a socket, IsADirectoryError for a folder."""
    if kind := irregular(mode):
        raise IrregularError(f"it is {kind}; only regular files are read and written")
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def open_handle(path: str | os.PathLike[str]) -> int:
    """A file descriptor to read a regular file by; IrregularError for all else, OSError as :func:`os.open` raises it.

    It is looked at before it is opened, since opening a device or a pipe may do something, and again afterwards,
    since it may be another one by then.
    """
    require_regular(os.stat(path).st_mode)
    handle = os.open(path, _FLAGS)
    try:
        require_regular(os.fstat(handle).st_mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_file(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """A regular file to read; errors as those of :func:`open_handle`."""
    return os.fdopen(open_handle(path), "rb", buffering)  # type: ignore[return-value]


def read(path: str | os.PathLike[str], start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
    """Bytes start..stop of a regular file; TooLargeError above `most`, by default this machine's memory.

    The bytes received count, not the file's stated size: it may grow, or say nothing (``/proc``).
    """
    handle = open_handle(path)
    try:
        said = os.fstat(handle).st_size
        limit = memory() if most is None else most
        require_size((said if stop is None else min(stop, said)) - start, limit)
        pieces: list[bytes] = []
        at = start
        while stop is None or at < stop:
            wanted = min(max(said - at + 1, _LEAST), _BLOCK)
            piece = os.pread(handle, wanted if stop is None else min(wanted, stop - at), at)
            if not piece:
                break
            pieces.append(piece)
            at += len(piece)
            require_size(at - start, limit)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except MemoryError:
        raise TooLargeError(f"its {said:,} bytes do not fit in the memory") from None
    finally:
        os.close(handle)


def require_size(count: int, most: int) -> None:
    """TooLargeError if `count` bytes are more than `most`."""
    if count > most:
        raise TooLargeError(f"it has {count:,} bytes or more, and at most {most:,} are read")


def size(path: Path) -> int:
    """The stated bytes of a file or folder; IrregularError for all else."""
    state = path.stat()
    if not stat.S_ISDIR(state.st_mode):
        require_regular(state.st_mode)
    return state.st_size


def memory() -> int:
    """Bytes of this machine's memory; a terabyte if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


def exists(path: Path) -> bool:
    """True if anything lies there; nothing lies at a name too long for the disk."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def is_folder(path: Path) -> bool:
    """True for a folder; as :func:`exists`."""
    try:
        return path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


# -------------------------------------------------------------------------------------------------- folders


@attrs.frozen
class Entry:
    """A file of a folder: its path, its size in bytes, and the reason if it cannot be read (else "")."""

    path: str
    size: int
    irregular: str = ""


def entries(root: Path, *, recursive: bool) -> list[Entry]:
    """The files in a folder but hidden ones, links followed; ``recursive`` goes into sub-folders.

    A folder at the end of several links is gone into once: the tree itself comes first, then the links' additions, so
    that no loop of links is endless. A link to a folder around `root` is a loop: past it there is the whole disk.
    """
    found: list[Entry] = []
    seen: set[tuple[int, int]] = set()
    above = {(s.st_dev, s.st_ino) for s in map(os.stat, root.resolve().parents)} if recursive else set()
    waiting, links = [str(root)], list[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                found.append(Entry(folder, 0, "a link to a folder that is read already"))
                continue
            if (state.st_dev, state.st_ino) in above:
                found.append(Entry(folder, 0, "a link to a folder that this one lies in"))
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as scan:
                inside = sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            if folder == str(root):
                raise
            found.append(Entry(folder, 0, f"a folder that cannot be opened ({error.strerror})"))
            continue
        for each in inside:
            entry = _entry(each)
            if entry is not None:
                found.append(entry)
            elif recursive:
                (links if each.is_symlink() else waiting).append(each.path)
    return found


def _entry(each: os.DirEntry[str]) -> Entry | None:
    """None for a folder."""
    try:
        state = each.stat()
    except FileNotFoundError:
        return Entry(each.path, 0, "a link to nothing")
    except OSError as error:
        return Entry(each.path, 0, f"a link that cannot be followed ({error.strerror})")
    return None if stat.S_ISDIR(state.st_mode) else Entry(each.path, state.st_size, irregular(state.st_mode))


# -------------------------------------------------------------------------------------------------- writing


def part_of(target: Path) -> Path:
    """A hidden name beside ``target``, unused by any other write. IrregularError for a pipe, a device or a socket at
    ``target``: a rename would replace it."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if kind := irregular(os.stat(target).st_mode):
            raise IrregularError(f"there is {kind}; only regular files are read and written")
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def create(target: Path, data: bytes) -> bool:
    """Write a new file, whole, unless there is one already: False. A hard link to a finished file makes it appear."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
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
        sync_folder(target.parent)
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
    sync_folder(target.parent)
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


def append(path: Path, data: bytes) -> None:
    """Add to the end of a regular file, or begin one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if exists(path):
        require_regular(os.stat(path).st_mode)
    with path.open("ab") as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
