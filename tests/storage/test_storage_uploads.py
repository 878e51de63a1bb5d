"""What was written to S3 is there, whatever the answers said: proxies' pages, lost answers, forgotten uploads."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator

import pytest
from s3_server import Fault, FaultProxy, Request, fault_proxy, put_object, s3_server

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import retry, transfer
from ldm_core.storage.options import StorageSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")

PART = 2**16
DATA = random.Random(1).randbytes(3 * PART + 17)
OLD = random.Random(2).randbytes(len(DATA))
URL = "s3://box/out/weights"
Match = Callable[[Request], bool]
BEGIN: Match = lambda r: r.method == "POST" and r.target.endswith("uploads")  # noqa: E731
PARTS: Match = lambda r: r.method == "PUT" and "partNumber" in r.target  # noqa: E731
SECOND: Match = lambda r: r.method == "PUT" and "partNumber=2" in r.target  # noqa: E731
END: Match = lambda r: r.method == "POST" and "uploadId" in r.target  # noqa: E731
PUT: Match = lambda r: r.method == "PUT"  # noqa: E731
HEAD: Match = lambda r: r.method == "HEAD"  # noqa: E731


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[str, int]]:
    with s3_server() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: tuple[str, int]) -> Iterator[FaultProxy]:
    with fault_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def server(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(transfer, "WRITE_PART", PART)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    storage.configure(StorageSettings(read_timeout=2.0, connect_timeout=2.0, retries=3, time_limit=6.0))
    proxy.heal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        yield proxy
    storage.configure(None)
    proxy.heal()
    storage.remove(URL)


def _there(server: FaultProxy) -> bytes | None:
    server.heal()
    return storage.read_bytes(URL) if storage.exists(URL) else None


def _uploads(upstream: tuple[str, int]) -> list[object]:
    import boto3  # type: ignore[import-untyped]

    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*upstream))
    return list(client.list_multipart_uploads(Bucket="box").get("Uploads", []))


def test_requests_of_a_write(server: FaultProxy) -> None:
    storage.atomic_write(URL, DATA[:100])
    assert [method for method, _, _ in server.seen] == ["PUT"]
    server.heal()
    assert storage.create(URL + "2", b"x")
    assert [method for method, _, _ in server.seen] == ["PUT"]
    storage.remove(URL + "2")
    server.heal()
    storage.atomic_write(URL, DATA)
    methods = [method for method, _, _ in server.seen]
    assert methods == ["POST", "PUT", "PUT", "PUT", "PUT", "POST", "HEAD"]


NOTHING: tuple[Fault, ...] = ("empty", "space", "page", "error")


@pytest.mark.parametrize(("fault", "old"), [("empty", False), *((fault, True) for fault in NOTHING)])
@pytest.mark.parametrize("where", [BEGIN, PARTS, END, PUT], ids=["begin", "part", "end", "whole"])
def test_an_answer_of_success_without_a_deed(
    server: FaultProxy, upstream: tuple[str, int], where: Match, fault: Fault, old: bool
) -> None:
    data = DATA[:PART] if where is PUT else DATA
    if old:
        put_object(upstream, "box", "out/weights", OLD[: len(data)])
    server.inject(fault, times=1, matches=where)
    storage.atomic_write(URL, data)
    assert server.broken == 1 and _there(server) == data
    server.inject(fault, matches=where)
    with pytest.raises(StorageError, match=rf"^cannot write {URL}: .*tried 4 times"):
        storage.atomic_write(URL, data[::-1])
    assert _there(server) == data and _uploads(upstream) == []  # the one before, whole
    storage.remove(URL)


@pytest.mark.parametrize("fault", ["empty, but done", "page, but done", "lost"])
@pytest.mark.parametrize("where", [END, PUT], ids=["end", "whole"])
def test_a_deed_with_another_answer(server: FaultProxy, where: Match, fault: Fault) -> None:
    data = DATA[:PART] if where is PUT else DATA
    server.inject(fault, times=1, matches=where)
    storage.atomic_write(URL, data)
    assert _there(server) == data
    server.inject(fault, matches=where)  # always: the object says that it is done
    storage.atomic_write(URL, data[::-1])
    assert _there(server) == data[::-1]


@pytest.mark.parametrize("fault", ["empty", "page"])
def test_a_new_object_without_a_deed(server: FaultProxy, upstream: tuple[str, int], fault: Fault) -> None:
    server.inject(fault, times=2, matches=PUT)
    assert storage.create(URL, b"mine") is True
    assert _there(server) == b"mine"
    server.inject(fault, times=1, matches=PUT)
    assert storage.create(URL, b"late") is False
    assert _there(server) == b"mine"
    storage.remove(URL)
    server.inject(fault, matches=PUT)
    with pytest.raises(StorageError, match="it is not there; a proxy may have answered"):
        storage.create(URL, b"mine")
    assert _there(server) is None


@pytest.mark.parametrize("where", [PARTS, SECOND, END], ids=["part", "second", "end"])
def test_a_forgotten_upload_begins_anew(server: FaultProxy, upstream: tuple[str, int], where: Match) -> None:
    server.inject("404", times=1, matches=where)
    storage.atomic_write(URL, DATA)
    assert sum(BEGIN(Request(m, t, [], 0)) for m, t, _ in server.seen) == 2
    assert _there(server) == DATA and _uploads(upstream) == []
    server.inject("404", matches=where)
    with pytest.raises(StorageError, match=r"forgot the upload before it was done \(NoSuchUpload\), 3 times") as raised:
        storage.atomic_write(URL, DATA[::-1])
    assert "spelling" not in str(raised.value)
    assert _there(server) == DATA and _uploads(upstream) == []


def test_who_may_write_and_not_look(server: FaultProxy) -> None:
    server.inject("refused", matches=HEAD)
    storage.atomic_write(URL, DATA)  # the answer has an ETag: S3 gave it
    server.heal()
    assert storage.read_bytes(URL) == DATA
    server.inject("refused", matches=HEAD)
    server.inject("empty", matches=END)
    with pytest.raises(StorageError, match="it is not there"):
        storage.atomic_write(URL, DATA[::-1])
    assert _there(server) == DATA


def test_a_clock_that_is_wrong_is_named(server: FaultProxy) -> None:
    write, create = storage.atomic_write, storage.create
    works: list[Callable[[], object]] = [lambda: write(URL, b"x"), lambda: write(URL, DATA), lambda: create(URL, b"x")]
    for work in (*works, lambda: storage.read_bytes(URL)):
        server.heal()
        server.inject("skewed")
        with pytest.raises(StorageError, match="the clock of this machine") as raised:
            work()
        assert "credentials" not in str(raised.value) and server.broken == 1


def test_folder_markers_are_no_files(server: FaultProxy, upstream: tuple[str, int]) -> None:
    base = "s3://box/marked"
    for key, data in {"": b"", "a/": b"", "a/b/": b"", "a/b/x.png": b"1", "a/y.png": b"", "empty/": b""}.items():
        put_object(upstream, "box", f"marked/{key}", data)
    assert [f.url for f in storage.list_files(base, recursive=True)] == [f"{base}/a/b/x.png", f"{base}/a/y.png"]
    assert [f.url for f in storage.list_files(f"{base}/a")] == [f"{base}/a/y.png"]
    assert storage.list_files(base) == [] == storage.list_files(f"{base}/empty", recursive=True)
    assert storage.list_files(f"{base}/empty/") == []
    assert storage.expand(f"{base}/a/*.png") == [f"{base}/a/y.png"]
    assert storage.expand(f"{base}/**/*.png") == [f"{base}/a/b/x.png", f"{base}/a/y.png"]
    assert not any(url.endswith("/") for url in storage.expand(f"{base}/*"))
    assert storage.is_folder(f"{base}/empty") and storage.is_folder(base)
    storage.remove(base, recursive=True)
    assert not storage.is_folder(base)
