"""Any text may come as a path or URL: what cannot be one is an error of one line, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_core import storage
from ldm_core.errors import LDMError, StorageError
from ldm_core.storage import paths
from ldm_core.storage.options import StorageSettings

NOWHERE = "127.0.0.1:1"  # where nobody listens
ODD = [
    "reference://",
    "reference://x",
    "jupyter://",
    f"jupyter://{NOWHERE}/x",
    "dir://",
    "dir:///tmp",
    "ftp://",
    "webhdfs://",
    "dbfs://",
    "github://",
    "generic://x",
    "async_wrapper://x",
    "data://",
    "zip://",
    "zip://a::/nowhere.zip",
    "zip://a::file:///dev/zero",
    "zip://a::/dev/zero",
    "tar://a::/dev/zero",
    "reference://::/dev/zero",
    f"simplecache::http://{NOWHERE}/x",
    "simplecache::file:///dev/zero",
    "blockcache::reference://",
    "simplecache://",
    "nobody://x",
    "a::b::c://d",
    "::http://",
    "\ud800://x",
    "\n://x",
    "http://",
    "https:///x",
    "http://[::1/",
    "HTTP://[",
    "http://[::1]:1/x",
    f"http://{NOWHERE}/\0",
    "http://a:99999999/x",
    "s3://",
    "s3:///x",
    "s3://B_a d/x",
    "s3://box/\ud800",
    "file:///tmp/%00",
    "local:///tmp/\0",
    "/a\0b.tar",
    "\0",
    "\ud800.tar",
    "ü" * 200,
    "file://" + "y" * 9000,
    "/a/" + "b" * 5000,
    "~nobody-of-that-name/x",
    "{0..999999}{0..999999}",
]
READS: dict[str, Callable[[str], object]] = {
    "info": storage.info,
    "read": storage.read_bytes,
    "text": storage.read_text,
    "open": lambda url: storage.open_read(url).__enter__(),
    "list": storage.list_files,
}
MAY: dict[str, Callable[[str], object]] = {  # be done, or be an error of one line
    "exists": storage.exists,
    "folder": storage.is_folder,
    "expand": storage.expand,
    "glob": lambda url: storage.expand(url + "/*"),
    "all": lambda url: storage.list_files(url, recursive=True),
}


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ENDPOINT_URL", "LDM_STORAGE"):
        monkeypatch.setenv(name, "")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    storage.configure(StorageSettings(endpoint_url=f"http://{NOWHERE}", retries=0, connect_timeout=1, read_timeout=1))


def _one_line(error: LDMError) -> bool:
    return str(error).isprintable() and len(str(error)) < 700


@pytest.mark.parametrize("url", ODD)
def test_reading_is_an_error_of_one_line(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, read in READS.items():
        if url == "s3://" and name in ("info", "list"):
            continue  # the buckets, of which s3fs says that there are none
        with pytest.raises(StorageError) as raised:
            read(url)
        assert _one_line(raised.value), name
    for name, ask in MAY.items():
        try:
            ask(url)
        except StorageError as error:
            assert _one_line(error), name
    assert "Traceback" not in capfd.readouterr().err  # of what is thrown away half-made


@pytest.mark.parametrize("url", [url for url in ODD if "://" in url and not url.startswith(("memory", "file://y"))])
def test_writing_is_an_error_of_one_line(url: str) -> None:
    for write in (storage.atomic_write, storage.create):
        with pytest.raises(StorageError) as raised:
            write(url, b"x")
        assert _one_line(raised.value)
    for more in (storage.make_folder, storage.remove, lambda url: storage.append_text(url, "x")):
        try:
            more(url)
        except StorageError as error:
            assert _one_line(error)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/a\0b.tar", r"/a\\x00b.tar: holds a NUL"),
        ("s3://", "names no bucket"),
        ("nobody://x", "no storage called 'nobody://'"),
        ("ftp://", "does not say: host"),
        ("reference://", "does not say: fo"),
        ("http://[::1/", "Invalid IPv6 URL"),
        ("https:///x", "names no host"),
        ("zip://a::/dev/zero", "it is a device"),
        ("/a/" + "b" * 5000, "its name is too long"),
        ("a\x1b[31m/b", r"a\\x1b\[31m/b: no such file"),
    ],
)
def test_the_reason_is_said(url: str, why: str) -> None:
    with pytest.raises(StorageError, match=why):
        storage.read_bytes(url)


@pytest.mark.parametrize(
    "url",
    [
        "{0..999999}{0..999999}",
        "{0..1000000}",
        "{0..9}" * 7,
        "{a,b,c}" * 30,
        "{" + "," * 2000 + "}{" + "," * 2000 + "}",
        "x" * 5000 + "{0..999999}",
        "{0..9}" * 200_000,
        "{5..999999999999999999999999}",
        "s3://box/{0..99999}/{0..99999}.tar",
    ],
)
def test_braces_that_stand_for_too_much(url: str) -> None:
    with pytest.raises(StorageError, match="stand for too many files") as raised:
        storage.expand(url)
    assert _one_line(raised.value)


@pytest.mark.parametrize(
    "inside", ["3..1", "²..³", "a..b", "1..", "..", "٣..٥", "1" * 5000 + ".." + "1", "1.." + "9" * 5000]
)
def test_ranges_that_are_none(inside: str) -> None:
    with pytest.raises(StorageError, match=r"is no range|more than 30 digits") as raised:
        storage.expand("x{" + inside + "}")
    assert _one_line(raised.value)


def test_braces_that_are_allowed() -> None:
    assert len(paths.braces("{0..999999}")) == 1_000_000
    assert paths.braces("a{08..10}{x,y}{}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    names = ",".join(f"shard-{i:04}" for i in range(60))  # longer than a file's name may be
    assert storage.expand("{" + names + "}") == names.split(",")


def test_tilde_of_nobody_is_a_name(tmp_path: Path) -> None:
    storage.atomic_write("~nobody-of-that-name", b"x")
    assert (tmp_path / "~nobody-of-that-name").read_bytes() == b"x"


def test_what_is_joined_to_a_protocol_stays_remote() -> None:
    for url in ("memory://", "ftp://", "s3://", "hf://"):
        assert storage.join(url, "a", "b.png") == f"{url}a/b.png" and storage.local_path(storage.join(url, "a")) is None
    assert storage.join("s3://box/", "/a/", "b") == "s3://box/a/b" == storage.join("s3://box", "a", "b")


def test_a_protocol_that_somebody_registered() -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Mine(MemoryFileSystem):  # type: ignore[misc]
        protocol = "mine"

    fsspec.register_implementation("mine", Mine, clobber=True)
    storage.atomic_write("mine://a/b", b"x")
    assert storage.read_bytes("mine://a/b") == b"x" and storage.exists("mine://a/b")
