"""Only regular files are read and written, and sizes are what comes: pipes, devices, sockets, /proc, holes, loops."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_core import storage
from ldm_core.errors import LDMError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.storage import local
from ldm_core.weights.source import open_source


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("link")
    path.with_name("link").symlink_to("pipe")


ODD = {
    "pipe": (_fifo, "a pipe"),
    "socket": (_socket, "a socket"),
    "zero": (_link("/dev/zero"), "a device"),
    "random": (_link("/dev/urandom"), "a device"),
    "full": (_link("/dev/full"), "a device"),
    "link to a link to a pipe": (_link_to_pipe, "a pipe"),
}
READS: dict[str, Callable[[str], object]] = {
    "bytes": storage.read_bytes,
    "some": lambda url: storage.read_bytes(url, 2, 9),
    "text": storage.read_text,
    "open": lambda url: storage.open_read(url).__enter__(),
    "hash": artifacts.sha256,
    "header": lambda url: artifacts.read_header(url, "model"),
    "weights": lambda url: open_source(url).tensors(),
    "hashed weights": lambda url: open_source(url, sha256="0" * 64),
    "config": lambda url: open_source(str(Path(url).with_name("other"))).config("x.json"),
}


@pytest.mark.parametrize("reading", READS)
@pytest.mark.parametrize("kind", ODD)
def test_nothing_but_regular_files_is_read(kind: str, reading: str, tmp_path: Path) -> None:
    make, called = ODD[kind]
    path = tmp_path / "x.json"
    (tmp_path / "other").touch()
    make(path)
    with pytest.raises(LDMError, match=f"it is {called}; only regular files are read") as raised:
        READS[reading](str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("write", ["atomic", "path", "append", "create"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "socket"])
def test_nothing_but_regular_files_is_written_or_replaced(kind: str, write: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    ODD[kind][0](path)
    before = os.lstat(path)
    with pytest.raises(StorageError, match="only regular files"):
        if write == "path":
            with storage.atomic_path(path) as part:
                part.touch()
        elif write == "atomic":
            storage.atomic_write(path, b"x")
        elif write == "append":
            storage.append_text(path, "x")
        else:
            storage.create(path, b"x")
    assert os.lstat(path).st_ino == before.st_ino and os.listdir(tmp_path) == ["x"]


def test_a_file_that_is_another_one_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "x", os.open
    path.write_bytes(b"a file, when it was looked at")

    def swapped(name: object, *rest: object, **more: object) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapped)
    handles = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="it is a pipe"):
        storage.read_bytes(path)
    assert len(os.listdir("/proc/self/fd")) == handles


def test_sizes_are_what_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.info("/proc/self/status").size == 0
    assert storage.read_text("/proc/self/status").startswith("Name:")
    with pytest.raises(StorageError, match="at most 100 are read"):
        storage.read_bytes("/proc/self/status", most=100)
    assert len(storage.read_bytes("/proc/self/status", 0, 100)) == 100
    path = tmp_path / "x"
    path.write_bytes(bytes(range(200)))
    assert storage.read_bytes(path, most=200) == bytes(range(200)) == storage.read_bytes(path)
    assert storage.read_bytes(path, 190, most=10) == bytes(range(190, 200)) == storage.read_bytes(path, 190, 999)
    assert storage.read_bytes(path, 500) == b"" == storage.read_bytes(path, 500, 600)
    with pytest.raises(StorageError, match="at most 199 are read"):
        storage.read_bytes(path, most=199)
    with pytest.raises(StorageError, match="at most 9 are read"):
        storage.read_bytes(path, 100, 110, most=9)
    monkeypatch.setattr(local, "_LEAST", 16)
    pread = os.pread

    def growing(handle: int, count: int, at: int) -> bytes:
        os.truncate(path, at + count + 50)
        return pread(handle, count, at)

    monkeypatch.setattr(os, "pread", growing)
    with pytest.raises(StorageError, match="at most 5,000 are read"):
        storage.read_bytes(path, most=5000)


def test_holes_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 4 << 40)
    for read in (storage.read_bytes, storage.read_text):
        with pytest.raises(StorageError, match="are read"):
            read(path)
    assert storage.read_bytes(path, 1 << 40, (1 << 40) + 5) == bytes(5)


def test_limits_hold_for_remote_files() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/most/x", b"0123456789")
    assert storage.read_bytes("memory://most/x", most=10) == b"0123456789"
    assert storage.read_bytes("memory://most/x", 4, most=6) == b"456789"
    for more in ({"most": 9}, {"start": 2, "most": 7}, {"start": 1, "stop": 9, "most": 7}):
        with pytest.raises(StorageError, match="at most"):
            storage.read_bytes("memory://most/x", **more)


READ_ALREADY = "a link to a folder that is read already"


@pytest.mark.parametrize("target", ["/", "..", "../..", "."])
def test_links_to_what_a_folder_lies_in_are_loops(target: str, tmp_path: Path) -> None:
    root = tmp_path / "all" / "data"
    root.mkdir(parents=True)
    (tmp_path / "all" / "other.png").write_bytes(b"12345")
    (root / "1.png").write_bytes(b"12345")
    (root / "up").symlink_to(target)
    for place in (root, tmp_path / "linked"):
        if not place.exists():
            place.symlink_to(root)
        found = storage.list_files(place, recursive=True)
        assert [(f.url, bool(f.irregular)) for f in found] == [(f"{place}/1.png", False), (f"{place}/up", True)]


def test_links_in_a_folder_are_followed_once(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "other"
    (root / "a" / "deep").mkdir(parents=True)
    (other / "in").mkdir(parents=True)
    for path in (root / "1.png", root / "a" / "2.png", root / "a" / "deep" / "3.png", other / "in" / "4.png"):
        path.write_bytes(b"12345")
    (root / ".hidden").write_text("")
    (root / "to-other").symlink_to(other)
    (root / "again").symlink_to(other)
    (root / "a" / "deep" / "up").symlink_to(root)  # loops
    (other / "in" / "self").symlink_to(".")
    (root / "to-a").symlink_to("a")  # in the list already
    (root / "5.png").symlink_to(other / "in" / "4.png")
    (root / "6.png").symlink_to("nowhere")
    os.mkfifo(root / "7.png")
    (root / "8.png").symlink_to("8.png")
    found = storage.list_files(root, recursive=True)
    assert {f.url.removeprefix(f"{root}/"): (f.size, f.irregular) for f in found} == {
        "1.png": (5, ""),
        "5.png": (5, ""),
        "6.png": (0, "a link to nothing"),
        "7.png": (0, "a pipe"),
        "8.png": (0, "a link that cannot be followed (Too many levels of symbolic links)"),
        "a/2.png": (5, ""),
        "a/deep/3.png": (5, ""),
        "again/in/4.png": (5, ""),
        **dict.fromkeys(("a/deep/up", "again/in/self", "to-a", "to-other"), (0, READ_ALREADY)),
    }
    assert [f.url for f in found] == sorted(f.url for f in found)
    flat = [f.url.removeprefix(f"{root}/") for f in storage.list_files(root)]
    assert flat == ["1.png", "5.png", "6.png", "7.png", "8.png"]
    assert storage.list_files(root / "1.png", recursive=True) == storage.list_files(root / "1.png")
    with pytest.raises(StorageError, match="links lead in a circle"):
        storage.read_bytes(root / "8.png")


def test_many_links_to_many_links_end(tmp_path: Path) -> None:
    for level in range(40):  # 2^40 paths lead to the last one
        (tmp_path / str(level)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(level) / name).symlink_to(f"../{level + 1}")
    found = [f.irregular for f in storage.list_files(tmp_path / "0", recursive=True)]
    assert sorted(found) == ["a link to a folder that is read already"] * 39 + ["a link to nothing"] * 2
