"""Storage over a network that breaks: what passes is absorbed, what lasts ends in time, no byte is another."""

from __future__ import annotations

import itertools
import random
import time
import traceback
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import attrs
import pytest
from s3_server import SECRET, Fault, FaultProxy, Request, fault_proxy, put_object, s3_server

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import parallel, retry, transfer
from ldm_core.storage.options import StorageSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")

DATA = random.Random(0).randbytes(3 * 2**20 + 17)
QUICK = StorageSettings(read_timeout=0.25, connect_timeout=0.5, retries=3, time_limit=4.0)
LASTING = 10.0
"""Seconds within which an operation must have failed under `QUICK`, on a busy machine too."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with s3_server() as upstream, fault_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def faulty(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(transfer, "READ_PART", 2**20)
    monkeypatch.setattr(transfer, "WRITE_PART", 2**20)
    monkeypatch.setattr(transfer, "BLOCK", 2**20)
    monkeypatch.setattr(retry, "_KNOWN", retry._Known())
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.delenv("LDM_STORAGE", raising=False)
    storage.configure(QUICK)
    proxy.heal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        yield proxy
    storage.configure(None)
    proxy.heal()


def _streamed(url: str) -> bytes:
    """As tar reading does it: small steps, back and forth."""
    with storage.open_read(url) as file:
        first = file.read(1000)
        file.seek(2 * 2**20)
        later = file.read(300_000)
        file.seek(1000)
        middle = file.read(2 * 2**20 - 1000)
        file.seek(2 * 2**20 + len(later))
        return first + middle + later + file.read()


READS: dict[str, Callable[[str], bytes]] = {
    "whole": storage.read_bytes,
    "range": lambda url: DATA[:7] + storage.read_bytes(url, 7, 900_000) + DATA[900_000:],
    "streamed": _streamed,
}


def _by_path(url: str) -> None:
    with storage.atomic_path(url) as part:
        part.write_bytes(DATA)


WRITES: dict[str, Callable[[str], object]] = {
    "in parts": lambda url: storage.atomic_write(url, DATA),
    "in parts, from a file": _by_path,
    "whole": lambda url: storage.atomic_write(url, DATA[:1_500_000]),
    "new": lambda url: storage.create(url, DATA[:1_500_000]),
}


def _cut(pairs: Iterable[tuple[str, str]], fast: Container[tuple[str, str]]) -> list[Any]:
    """Every pair; those not in `fast` are slow tests."""
    return [pytest.param(*pair, marks=() if pair in fast else pytest.mark.slow) for pair in pairs]


_READ_FAULTS = itertools.product(READS, ("500", "503", "reset", "short", "flip", "stall"))
_READ_CUT = {("whole", "503"), ("whole", "flip"), ("range", "reset"), ("streamed", "short"), ("streamed", "stall")}


@pytest.mark.parametrize(("how", "fault"), _cut(_READ_FAULTS, _READ_CUT))
def test_reads_get_over_two_faults(faulty: FaultProxy, how: str, fault: Fault) -> None:
    if fault == "flip" and how == "range":
        pytest.skip("a range has no checksum of its own")
    url = f"s3://box/read/{how}-{fault}"
    data = DATA if fault != "flip" else DATA[: 2**20]
    storage.atomic_write(url, data)
    before = faulty.broken
    faulty.inject(fault, times=2, matches=lambda r: r.method == "GET")
    if fault == "flip" and how == "streamed":
        with storage.open_read(url) as file:
            assert file.read() == data
    else:
        assert READS[how](url) == data
    assert faulty.broken - before == 2


_WRITE_FAULTS = itertools.product(WRITES, ("500", "503", "reset", "lost", "stall_write"))
_WRITE_CUT = {("in parts", "stall_write"), ("in parts, from a file", "reset"), ("whole", "503"), ("new", "lost")}


@pytest.mark.parametrize(("how", "fault"), _cut(_WRITE_FAULTS, _WRITE_CUT))
def test_writes_get_over_two_faults(faulty: FaultProxy, how: str, fault: Fault) -> None:
    url = f"s3://box/write/{how}-{fault}".replace(" ", "-")
    faulty.inject(fault, times=2, matches=lambda r: r.method == "PUT")
    assert WRITES[how](url) in (None, True)
    assert faulty.broken == 2
    faulty.heal()
    read = storage.read_bytes(url)
    assert read == DATA[: len(read)] and len(read) in (1_500_000, len(DATA))
    if how == "new":
        assert storage.create(url, b"late") is False


@pytest.mark.parametrize("fault", ["500", "lost"])
def test_the_end_of_an_upload_may_be_asked_for_twice(faulty: FaultProxy, fault: Fault) -> None:
    faulty.inject(fault, times=2, matches=lambda r: r.method == "POST" and "uploadId" in r.target)
    storage.atomic_write("s3://box/write/ended", DATA)
    assert faulty.broken == 2 and storage.read_bytes("s3://box/write/ended") == DATA


LASTS: dict[Fault, str] = {
    "500": "the server answers 500 InternalError",
    "503": "the server answers 503 SlowDown",
    "403": "the credentials have expired",
    "reset": "check the network and try again",
    "short": "check the network and try again",
    "stall": "no answer in time",
    "stall_write": "no answer in time",
    "lost": "check the network and try again",
}


@pytest.mark.parametrize(
    ("way", "fault"),
    _cut(
        [("read", fault) for fault in ("500", "503", "403", "stall")]
        + [("streamed", fault) for fault in ("503", "stall")]
        + [("write", fault) for fault in ("500", "503", "403", "reset", "lost", "stall_write")],
        {("read", "500"), ("read", "403"), ("write", "503"), ("write", "403"), ("write", "reset")},
    ),
)
def test_what_lasts_ends_in_time_and_says_what_it_was(faulty: FaultProxy, way: str, fault: Fault) -> None:
    url = "s3://box/lasting/file"
    storage.atomic_write(url, DATA)
    faulty.inject(fault, matches=lambda r: (r.method == "PUT") == (way == "write"))
    began = time.monotonic()
    with pytest.raises(StorageError, match=LASTS[fault]) as caught:
        if way == "write":
            storage.atomic_write(url, b"new" * 1_000_000)
        else:
            READS["whole" if way == "read" else way](url)
    assert time.monotonic() - began < LASTING
    assert str(caught.value).startswith("cannot " + ("write" if way == "write" else "read") + " s3://box/lasting/file")
    if fault == "403":
        # parts that were on their way already were refused as well, none was sent again
        assert faulty.broken <= parallel.AT_ONCE
    else:
        assert "(tried" in str(caught.value)
    faulty.heal()
    assert storage.read_bytes(url) == DATA  # the old file, whole


def test_a_lasting_failure_leaves_no_parts_behind(faulty: FaultProxy) -> None:
    faulty.inject("500", matches=lambda r: "partNumber=2" in r.target)
    with pytest.raises(StorageError, match="500"):
        storage.atomic_write("s3://box/parts/file", DATA)
    assert not storage.exists("s3://box/parts/file")
    fs, _ = storage.filesystem("s3://box")
    # of this file alone: where an answer got lost in an earlier test, an upload that nobody sees may be left
    left = fs.call_s3("list_multipart_uploads", Bucket="box", Prefix="parts/")
    assert not left.get("Uploads")


_SLOW_FAULTS = [pytest.param(fault, marks=pytest.mark.slow) for fault in ("500", "reset", "stall")]


@pytest.mark.parametrize("fault", ["503", *_SLOW_FAULTS])
def test_looking_listing_and_deleting_get_over_two_faults(faulty: FaultProxy, fault: Fault) -> None:
    for name in ("a", "b/c"):
        storage.atomic_write(f"s3://box/look/{name}", b"x")
    steps: list[Callable[[], object]] = [
        lambda: storage.exists("s3://box/look/a"),
        lambda: storage.info("s3://box/look/a").size == 1,
        lambda: storage.is_folder("s3://box/look"),
        lambda: not storage.exists("s3://box/look/none"),
        lambda: (
            [f.url for f in storage.list_files("s3://box/look", recursive=True)]
            == ["s3://box/look/a", "s3://box/look/b/c"]
        ),
        lambda: storage.expand("s3://box/look/*") == ["s3://box/look/a", "s3://box/look/b"],
        lambda: storage.remove("s3://box/look", recursive=True),
    ]
    for step in steps:
        faulty.inject(fault, times=2)
        before = faulty.broken
        assert step() is not False
        assert faulty.broken == before + 2
    assert storage.list_files("s3://box/look", recursive=True) == []


def test_a_failed_look_is_not_taken_for_a_file_that_is_not_there(faulty: FaultProxy) -> None:
    faulty.inject("503")
    for ask in (storage.exists, storage.is_folder):
        with pytest.raises(StorageError, match="cannot look for s3://box"):
            ask("s3://box")
        with pytest.raises(StorageError, match="cannot look for s3://box/a"):
            ask("s3://box/a")


def test_expired_credentials_are_said_where_the_answer_has_no_body(faulty: FaultProxy) -> None:
    faulty.inject("403")
    for ask in (storage.exists, storage.info):
        with pytest.raises(StorageError, match="the credentials have expired"):
            ask("s3://box/file")


def test_a_read_goes_on_where_it_broke(faulty: FaultProxy) -> None:
    url = "s3://box/goes-on"
    storage.atomic_write(url, DATA[: 2**20])
    faulty.heal()
    # A line that breaks after half of what is left each time is got over, more often than the number of retries.
    faulty.inject("short", times=6)
    assert storage.read_bytes(url) == DATA[: 2**20]
    assert len(faulty.seen) == 7 and faulty.broken == 6 > QUICK.retries


def test_a_file_replaced_while_it_is_read_is_never_mixed(faulty: FaultProxy) -> None:
    url = "s3://box/replaced"
    other = bytes(len(DATA))
    storage.atomic_write(url, DATA)
    replaced = False

    def replace(request: Request) -> bool:
        nonlocal replaced
        if request.method == "GET" and not replaced and dict(request.headers).get("Range", "").startswith("bytes=1048"):
            replaced = True
            put_object(faulty.upstream, "box", "replaced", other)
        return False

    faulty.inject("500", matches=replace)
    assert storage.read_bytes(url) == other and replaced
    replaced = False
    storage.atomic_write(url, DATA)
    with pytest.raises(StorageError, match="it was replaced while it was read; start again"):
        _streamed(url)


def test_one_line_warns_of_many_faults(faulty: FaultProxy) -> None:
    storage.atomic_write("s3://box/warned", b"x")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            faulty.inject("503", times=2)
            assert storage.read_bytes("s3://box/warned") == b"x"
    said = [str(w.message) for w in caught if w.category is storage.StorageWarning]
    assert said == [
        "cannot read s3://box/warned: the server answers 503 SlowDown; check the service and try again; trying again, "
        "up to 3 times"
    ]


def test_a_key_is_never_shown(faulty: FaultProxy, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    storage.atomic_write("s3://box/secret", DATA)
    storage.configure(attrs.evolve(QUICK, retries=1, time_limit=0.5, read_timeout=0.05, connect_timeout=0.1))
    for fault in LASTS:
        faulty.heal()
        faulty.inject(fault)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for work in (storage.read_bytes, storage.exists, lambda url: storage.atomic_write(url, b"x" * 100)):
                try:
                    work("s3://box/secret")
                except StorageError as error:
                    told += traceback.format_exception(error)
                    each: BaseException | None = error
                    while each is not None:
                        told += [str(each), repr(each)]
                        each = each.__cause__ or each.__context__
        told += [str(w.message) for w in caught]
    assert len(told) > 100
    out = capfd.readouterr()
    everything = "\n".join([*told, out.out, out.err])
    assert SECRET not in everything


def test_no_bucket_is_said(faulty: FaultProxy) -> None:
    for work in (storage.read_bytes, storage.list_files, lambda url: storage.atomic_write(url, b"x")):
        with pytest.raises(StorageError, match="there is no bucket 'other'; check the spelling, or make it"):
            work("s3://other/file")
    assert len(faulty.seen) <= 4  # nothing was asked twice
