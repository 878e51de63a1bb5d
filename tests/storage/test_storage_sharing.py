"""Storage between processes: after a fork, beside another writer, with settings handed down, and over plain HTTP."""

from __future__ import annotations

import http.server
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from s3_server import FaultProxy, fault_proxy, put_object, s3_server

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import retry, transfer
from ldm_core.storage.options import StorageSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")

ROOT = Path(__file__).resolve().parents[2]
DATA = random.Random(1).randbytes(2**20 + 5)
QUICK = StorageSettings(read_timeout=1.0, connect_timeout=1.0, retries=3, time_limit=5.0)


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with s3_server() as upstream, fault_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def server(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    proxy.heal()
    storage.configure(QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        yield proxy
    storage.configure(None)
    proxy.heal()


def _in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a forked process, which has 60 s for it."""
    context: Any = multiprocessing.get_context("fork")
    mine, other = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: just what is tested
        child = context.Process(target=_send, args=(other, work), daemon=True)
        child.start()
    try:
        assert mine.poll(60), "the child did nothing for a minute"
        return mine.recv()
    finally:
        child.kill()
        child.join(10)


def _send(pipe: Any, work: Callable[[], Any]) -> None:
    pipe.send(work())


def _read(url: str) -> tuple[bytes, bytes]:
    with storage.open_read(url) as file:
        file.seek(1000)
        return storage.read_bytes(url), file.read()


def test_a_child_reads_after_its_parent_has(server: FaultProxy) -> None:
    url = "s3://box/forked"
    storage.atomic_write(url, DATA)
    assert _read(url) == (DATA, DATA[1000:])
    for _ in range(2):
        assert _in_child(partial(_read, url)) == (DATA, DATA[1000:])
        assert _read(url) == (DATA, DATA[1000:])  # the parent's connections were not touched
    fs, _ = storage.filesystem(url)
    assert _in_child(lambda: storage.filesystem(url)[0] is fs) is False


def _bytes_of(url: Any) -> bytes:
    return storage.read_bytes(url)


def test_workers_of_a_loader_read_s3(server: FaultProxy) -> None:
    from torch.utils.data import DataLoader

    urls: Any = [f"s3://box/worker/{number}" for number in range(8)]
    for url in urls:
        storage.atomic_write(url, url.encode())
    server.inject("503", times=2)
    loader: Any = DataLoader(urls, batch_size=None, num_workers=2, collate_fn=_bytes_of, multiprocessing_context="fork")
    assert list(loader) == [url.encode() for url in urls]


def test_settings_reach_processes_that_are_started_anew(server: FaultProxy) -> None:
    script = (
        "from ldm_core import storage\n"
        "print(storage.current().retries, storage.current().endpoint_url, storage.read_text('s3://box/anew'))"
    )
    storage.atomic_write("s3://box/anew", "there")
    storage.configure(attrs.evolve(QUICK, retries=7, endpoint_url=server.address))
    environment = {k: v for k, v in os.environ.items() if k != "AWS_ENDPOINT_URL"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["7", server.address, "there"]
    storage.configure(StorageSettings())
    assert "LDM_STORAGE" not in os.environ


def test_what_another_process_writes_or_removes_is_seen_at_once(server: FaultProxy) -> None:
    def names() -> list[str]:
        return [storage.base_name(f.url) for f in storage.list_files("s3://box/seen")]

    storage.atomic_write("s3://box/seen/a", b"1")
    assert names() == ["a"] and not storage.exists("s3://box/seen/b") and storage.expand("s3://box/seen/*")
    put_object(server.upstream, "box", "seen/b", b"22")
    assert storage.exists("s3://box/seen/b") and names() == ["a", "b"]
    assert storage.info("s3://box/seen/b").size == 2
    put_object(server.upstream, "box", "seen/b", b"333")
    assert storage.info("s3://box/seen/b").size == 3 and storage.read_bytes("s3://box/seen/b") == b"333"
    assert len(storage.expand("s3://box/seen/*")) == 2
    _in_child(lambda: storage.remove("s3://box/seen", recursive=True))
    assert not storage.exists("s3://box/seen/a") and not storage.is_folder("s3://box/seen")
    assert storage.list_files("s3://box/seen", recursive=True) == []


def test_a_lock_whose_answer_was_lost_is_still_ours(server: FaultProxy) -> None:
    server.inject("lost", times=1, matches=lambda r: r.method == "PUT")
    assert storage.create("s3://box/lock", b"mine, 5f3a") is True
    server.inject("lost", times=1, matches=lambda r: r.method == "PUT")
    assert storage.create("s3://box/lock", b"mine, 5f3a") is False
    assert storage.read_bytes("s3://box/lock") == b"mine, 5f3a"


def test_an_address_that_never_answered_is_not_tried_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_KNOWN", retry._Known())
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    storage.configure(StorageSettings(endpoint_url="http://127.0.0.1:9", retries=1000, connect_timeout=1.0))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", storage.StorageWarning)
            with pytest.raises(
                StorageError, match=r"127\.0\.0\.1:9.*check the address and the network \(tried 3 times"
            ):
                storage.read_bytes("s3://box/file")
    finally:
        storage.configure(None)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without ranges, as simple servers do it."""

    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FaultProxy]:
    (tmp_path / "file.bin").write_bytes(DATA)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    with fault_proxy((str(host), port)) as proxy:
        yield proxy
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(transfer, "BLOCK", 2**18)
    storage.configure(QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        yield
    storage.configure(None)


def test_the_web_is_read_over_faults(web: FaultProxy, quick: None) -> None:
    url = f"{web.address}/file.bin"
    for fault in ("500", "503", "reset", "short", "lost"):
        web.inject(fault, times=2, matches=lambda r: r.method == "GET")  # type: ignore[arg-type]
        assert storage.read_bytes(url) == DATA
        assert storage.read_bytes(url, 10, 100_000) == DATA[10:100_000]
    assert web.broken == 10
    assert _read(url) == (DATA, DATA[1000:])
    assert storage.info(url).size == len(DATA) and storage.exists(url)
    assert not storage.exists(f"{web.address}/none")
    with pytest.raises(StorageError, match="no such file or folder; check the spelling"):
        storage.read_bytes(f"{web.address}/none")
    web.inject("503")
    for ask in (storage.read_bytes, storage.exists, storage.info):
        with pytest.raises(StorageError, match=r"the server answers 503; check the service and try again \(tried 4"):
            ask(url)
    web.heal()
    web.inject("403")
    with pytest.raises(StorageError, match=r"permission denied .*check your credentials"):
        storage.read_bytes(url)


def test_the_web_is_not_written(quick: None) -> None:
    for work in (
        lambda: storage.atomic_write("https://user:hunter2@host/file", b"x"),
        lambda: storage.create("https://user:hunter2@host/file", b"x"),
        lambda: storage.remove("https://user:hunter2@host/file"),
    ):
        with pytest.raises(StorageError, match="web addresses are only read; give a path or an s3:// URL") as caught:
            work()
        assert "hunter2" not in str(caught.value)


def test_a_signed_address_stays_out_of_what_is_told(web: FaultProxy, quick: None) -> None:
    import traceback

    secret = "hunter" + "2"  # tracebacks show lines of this file
    web.inject("503")
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(f"{web.address}/file.bin?X-Signature={secret}")
    assert secret not in "".join(traceback.format_exception(caught.value))
