"""Storage by URL: whole writes or none, patterns, and errors that name the place and hide the credentials."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import retry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def memory() -> Iterator[str]:
    import fsspec

    fs = fsspec.filesystem("memory")
    yield "memory://box"
    fs.rm("/box", recursive=True) if fs.exists("/box") else None


@pytest.mark.parametrize("place", ["local", "file", "memory"])
def test_round_trip(place: str, tmp_path: Path, memory: str) -> None:
    base = {"local": str(tmp_path), "file": tmp_path.as_uri(), "memory": memory}[place]
    url = storage.join(base, "a", "b.bin")
    assert not storage.exists(url)
    storage.atomic_write(url, b"0123456789")
    assert storage.exists(url) and storage.is_folder(storage.join(base, "a"))
    assert storage.read_bytes(url) == b"0123456789"
    assert storage.read_bytes(url, 3, 6) == b"345"
    assert storage.info(url).size == 10
    with storage.open_read(url) as file:
        file.seek(7)
        assert file.read() == b"789"
    storage.atomic_write(url, lambda file: file.write("grüße".encode()))
    assert storage.read_text(url) == "grüße"
    storage.append_text(url, "!")
    assert storage.read_text(url) == "grüße!"
    with storage.atomic_path(storage.join(base, "c.txt")) as part:
        part.write_text("by path")
    assert storage.read_text(storage.join(base, "c.txt")) == "by path"
    names = [storage.base_name(entry.url) for entry in storage.list_files(base, recursive=True)]
    assert sorted(names) == ["b.bin", "c.txt"]
    assert [storage.base_name(entry.url) for entry in storage.list_files(base)] == ["c.txt"]
    assert storage.read_bytes(storage.list_files(base)[0].url) == b"by path"
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


@pytest.mark.parametrize("place", ["local", "no links", "memory"])
def test_one_of_many_creates_a_file(place: str, tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "no links":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    url = storage.join(memory if place == "memory" else str(tmp_path), "new", "lock.json")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda number: storage.create(url, f"writer {number}".encode()), range(64)))
    assert sum(made) == 1
    assert storage.read_bytes(url) == f"writer {made.index(True)}".encode()
    assert storage.create(url, b"late") is False and storage.read_bytes(url) != b"late"
    storage.remove(url)
    assert storage.create(url, b"again") is True and storage.read_bytes(url) == b"again"
    if place != "memory":
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock.json"]


def test_urls_are_taken_apart() -> None:
    assert storage.parent("s3://bucket/a/b.tar") == "s3://bucket/a"
    assert storage.base_name("s3://bucket/a/b.tar") == "b.tar"
    assert storage.join("s3://bucket/a/", "b") == "s3://bucket/a/b"
    assert storage.local_path("file:///data/a%20b") == Path("/data/a b")
    assert storage.local_path("s3://bucket") is None


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    storage.atomic_write(target, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"weights\.bin: the disk is full; free some space"):
        storage.atomic_write(target, fail)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]

    def interrupt(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.atomic_write(target, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_a_file_size_limit_is_a_storage_error(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from ldm_core import storage\n"
        "from ldm_core.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    storage.atomic_write(sys.argv[1], b'x' * 1_000_000)\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    assert resource.RLIMIT_FSIZE >= 0
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big.bin")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "big.bin: the file-size limit was reached" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [storage.atomic_write, storage.create])
def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    write: Callable[[str, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file of that name, or none."""
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((os.fstat(file).st_ino, (tmp_path / "a").exists())))
    write(str(tmp_path / "a"), b"x")
    assert seen == [((tmp_path / "a").stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    contents = [bytes([letter]) * 200_000 for letter in (65, 66)]
    storage.atomic_write(target, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                storage.atomic_write(target, content)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            assert all(storage.read_bytes(target) in contents for _ in range(50))
            assert not writing.done()
        finally:
            stop.set()
    writing.result()


def test_patterns_are_expanded(tmp_path: Path, memory: str) -> None:
    assert storage.expand("s3://b/x-{000008..000011}.tar") == [
        f"s3://b/x-{number:06d}.tar" for number in (8, 9, 10, 11)
    ]
    assert storage.expand("/d/{a,b}/{1..2}.tar") == ["/d/a/1.tar", "/d/a/2.tar", "/d/b/1.tar", "/d/b/2.tar"]
    for name in ("b.tar", "a.tar", "c.txt"):
        storage.atomic_write(tmp_path / name, b"x")
        storage.atomic_write(f"{memory}/{name}", b"x")
    assert storage.expand(tmp_path / "*.tar") == [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    found = storage.expand(f"{memory}/?.tar")
    assert [storage.base_name(url) for url in found] == ["a.tar", "b.tar"]
    assert [storage.read_bytes(url) for url in found] == [b"x", b"x"]
    odd = tmp_path / "odd[1]{2}.tar"
    odd.write_bytes(b"y")
    assert storage.expand(odd) == [str(odd)]
    assert storage.expand("https://host/a.tar?sig=1") == ["https://host/a.tar?sig=1"]
    with pytest.raises(StorageError, match="nothing matches"):
        storage.expand(tmp_path / "*.zip")
    with pytest.raises(StorageError, match="lower first"):
        storage.expand("/d/{5..3}.tar")


def test_errors_name_the_place_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*nowhere: no such file or folder; check"):
        storage.read_bytes(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot list"):
        storage.list_files(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="it is a folder"):
        storage.read_bytes(tmp_path)
    (tmp_path / "latin").write_bytes("grün".encode("latin-1"))
    with pytest.raises(StorageError, match="not UTF-8 text"):
        storage.read_text(tmp_path / "latin")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a part of its path is a file, not a folder"):
        storage.atomic_write(tmp_path / "file" / "below", b"x")
    with pytest.raises(StorageError, match="no storage called 'gopher://'"):
        storage.exists("gopher://somewhere")


@pytest.mark.filterwarnings("ignore::ldm_core.storage.StorageWarning")
def test_a_server_that_does_not_answer_is_not_called_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="HTTP URLs need aiohttp")
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    with socket.socket() as taken:  # bound, but nothing listens: a connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar"
        for read in (storage.read_bytes, storage.list_files):
            with pytest.raises(StorageError, match=r"127\.0\.0\.1.*; check the address and the network"):
                read(url)


def test_credentials_are_never_shown() -> None:
    assert storage.shown("s3://key:secret@bucket/a?X-Signature=abc") == "s3://bucket/a"
    assert "secret" not in storage.shown("failed for https://u:secret@host/x?token=secret here")
    with pytest.raises(StorageError) as caught:
        storage.exists("gopher://user:hunter2@host/file")
    assert "hunter2" not in str(caught.value)


def test_s3_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.registry import _registry

    for name in ("s3", "s3a"):  # as if this process had never seen it
        if name in _registry:
            monkeypatch.delitem(_registry, name)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"pip install 'ldm-core\[s3\]'"):
        storage.read_bytes("s3://bucket/key")
    assert fsspec.filesystem("memory") is not None


def test_importing_storage_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from ldm_core import storage\n"
        "from ldm_core.data import geometry, images\n"
        "from ldm_core.builtin.readers import config\n"
        "from ldm_core.builtin.shapes import config\n"
        "print([m for m in ('torch', 's3fs', 'fsspec', 'PIL') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
