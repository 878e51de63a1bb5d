"""``hf://``: the Hub's files by huggingface_hub's own client, from a small Hub on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, hub, oid_of

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import retry
from ldm_core.storage.cache import DataCache
from ldm_core.storage.options import StorageSettings

__all__ = ["hub"]
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (ldm-core[hub])")

FILES = {"a.txt": b"first", "in/b.bin": bytes(range(256)) * 1000, ".gitattributes": b"x", "README.md": b"# it"}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    storage.configure(StorageSettings(connect_timeout=5, read_timeout=5, retries=3))
    yield
    storage.configure(None)


@pytest.mark.parametrize("kind, root", [("models", "hf://me/it"), ("datasets", "hf://datasets/me/it")])
def test_files_are_found_listed_and_read(hub: HubServer, kind: str, root: str) -> None:
    hub.add("me/it", dict(FILES), kind=kind)
    assert storage.read_bytes(f"{root}/a.txt") == b"first"
    assert storage.read_bytes(f"{root}/in/b.bin", 250, 260) == FILES["in/b.bin"][250:260]
    assert storage.exists(f"{root}/in") and storage.exists(f"{root}/a.txt") and not storage.exists(f"{root}/c")
    assert storage.is_folder(root) and storage.is_folder(f"{root}/in")
    assert not storage.is_folder(f"{root}/a.txt") and not storage.is_folder(f"{root}/c")
    assert [file.url for file in storage.list_files(root)] == [f"{root}/README.md", f"{root}/a.txt"]
    listed = storage.list_files(root, recursive=True)
    assert [(f.url.removeprefix(root), f.size, f.mark) for f in listed] == [
        (f"/{name}", len(FILES[name]), oid_of(FILES[name])) for name in ("README.md", "a.txt", "in/b.bin")
    ]
    assert storage.info(f"{root}/a.txt") == storage.FileInfo(f"{root}/a.txt", 5, oid_of(b"first"))
    assert storage.expand(f"{root}/in/*.bin") == [f"{root}/in/b.bin"]
    assert storage.expand(f"{root}/{{a.txt,in}}") == [f"{root}/a.txt", f"{root}/in"]


def test_only_the_bytes_asked_for_are_sent(hub: HubServer) -> None:
    """huggingface_hub's own file would read five megabytes ahead at each place."""
    hub.add("me/it", {"big": bytes(1 << 20)})
    assert storage.read_bytes("hf://me/it/big", 1000, 1010) == bytes(10)
    assert hub.ranges == ["bytes=1000-1009"]
    with storage.open_read("hf://me/it/big") as file:
        file.seek(500_000)
        assert file.read(3) == bytes(3)


def test_a_long_file_comes_in_parts(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_core.storage.transfer.READ_PART", 100_000)
    hub.add("me/it", dict(FILES))
    assert storage.read_bytes("hf://me/it/in/b.bin") == FILES["in/b.bin"]
    assert sorted(hub.ranges) == ["bytes=0-99999", "bytes=100000-199999", "bytes=200000-255999"]


@pytest.mark.parametrize("revision", ["v1", "refs/convert/parquet", "a%2Fb", "1f3a"])
def test_a_revision_is_read_as_it_was(hub: HubServer, revision: str) -> None:
    named = revision.replace("%2F", "/")
    hub.add("me/it", dict(FILES), revisions={named: {"a.txt": b"older", "in/c": b"c"}})
    root = f"hf://me/it@{revision}"
    assert storage.read_bytes(f"{root}/a.txt") == b"older"
    assert [file.url for file in storage.list_files(root, recursive=True)] == [f"{root}/a.txt", f"{root}/in/c"]
    assert not storage.exists(f"{root}/README.md")


@pytest.mark.parametrize(
    "url, said",
    [
        ("hf://me/none/a", "the Hub shows no such model; check the spelling (hf://datasets/ for data), or, if it is"),
        ("hf://datasets/me/it/a", "the Hub shows no such data set; check the spelling, or, if it is private, log in"),
        ("hf://me/it@v9/a.txt", "the repository has no such revision; give a branch, a tag or a commit"),
        ("hf://me/private/a", "if it is private, log in (hf auth login, or HF_TOKEN)"),
        ("hf://me/gated/a", "its owner asks for consent to terms; accept them on the repository's page"),
        ("hf://alone", "that is no address on the Hub"),
        ("hf://", "that is no address on the Hub"),
        ("hf://me/it/none", "no such file or folder; check the spelling"),
        ("hf://me/..it/a", "that is no address on the Hub"),
    ],
)
def test_what_is_not_there_is_one_line(hub: HubServer, url: str, said: str) -> None:
    hub.add("me/it", dict(FILES))
    hub.add("me/private", {"a": b"a"}, token="hf_right")
    hub.add("me/gated", {"a": b"a"}, gated=True)
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(url)
    assert said in str(caught.value) and url in str(caught.value) and "\n" not in str(caught.value)
    if not url.endswith(("none", "gated/a")):
        with pytest.raises(StorageError):  # and not simply False: a mistake in the address is not a missing file
            storage.exists(url)
        with pytest.raises(StorageError):
            storage.is_folder(url)


def test_a_token_opens_what_is_private_and_is_never_shown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/private", {"a": b"secret"}, token="hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert storage.read_bytes("hf://me/private/a") == b"secret"
    assert storage.list_files("hf://me/private")[0].url == "hf://me/private/a"
    assert {given for *_, given in hub.requests} == {"Bearer hf_right"}
    for token, said in (("hf_wrong", "use a token with the right to it"), ("hf_expired", "does not take these cred")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(StorageError, match=said) as caught:
            storage.read_bytes("hf://me/private/a")
        error: BaseException | None = caught.value
        while error is not None:
            assert token not in f"{error} {error.args!r}"
            error = error.__cause__


def test_what_passes_is_tried_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/it", dict(FILES))
    hub.fail("/resolve/", 503, times=2)
    hub.fail("/resolve/", 200, cut=True)
    monkeypatch.setattr(retry, "_KNOWN", retry._Known())
    with pytest.warns(storage.StorageWarning, match="the server answers 503; check the service"):
        assert storage.read_bytes("hf://me/it/in/b.bin") == FILES["in/b.bin"]
    assert sum("/resolve/" in target for _, target, _ in hub.requests) == 4


def test_a_file_replaced_while_it_is_open_is_an_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_core.storage.transfer.BLOCK", 1000)
    repository = hub.add("me/it", dict(FILES))
    with (
        pytest.raises(StorageError, match="it was replaced while it was read; start again"),
        storage.open_read("hf://me/it/in/b.bin") as file,
    ):
        file.read(10)
        repository.revisions["main"]["in/b.bin"] = bytes(256_000)
        file.seek(100_000)
        file.read(10)


def test_copies_go_by_content(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.add("me/it", dict(FILES))
    cache = DataCache(str(tmp_path), 1 << 20)
    first = cache.copy(storage.info("hf://me/it/in/b.bin"))
    again = cache.copy(storage.info("hf://me/it/in/b.bin"))
    assert first is not None and first == again and first.read_bytes() == FILES["in/b.bin"]
    repository.revisions["main"]["in/b.bin"] = bytes(256_000)
    other = cache.copy(storage.info("hf://me/it/in/b.bin"))
    assert other is not None and other != first and other.read_bytes() == bytes(256_000)


def test_nothing_is_written(hub: HubServer) -> None:
    hub.add("me/it", {})
    for write in (
        lambda: storage.atomic_write("hf://me/it/a", b"a"),
        lambda: storage.create("hf://me/it/a", b"a"),
        lambda: storage.remove("hf://me/it/a"),
        lambda: storage.make_folder("hf://me/it/a"),
    ):
        with pytest.raises(StorageError, match=r"hf:// is only read; .* ldm-plugin-hub uploads a run"):
            write()
    assert not hub.requests


def test_without_the_extra_a_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ldm_core.storage.hub", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StorageError, match=r"URLs of 'hf://' need another package: pip install 'ldm-core\[hub\]'"):
        storage.read_bytes("hf://me/it/a")


def test_offline_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/it", dict(FILES))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="the variable HF_HUB_OFFLINE is set"):
        storage.read_bytes("hf://me/it/a.txt")
