"""The recipe's section ``storage``, what is tried again and when, and that no key gets into a recipe."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import overrides
from ldm_core.errors import ConfigError, StorageError
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve, use_storage
from ldm_core.storage import options as storage_options
from ldm_core.storage import retry
from ldm_core.storage.failures import ShortError, is_passing, reason
from ldm_core.storage.options import StorageSettings


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LDM_STORAGE", raising=False)
    yield
    storage.configure(None)


def _recipe(**given: Any) -> Recipe:
    return resolve({"storage": given} if given else {}, Catalog.discover())


def test_resolving_a_recipe_changes_nothing_of_the_process() -> None:
    before = dict(os.environ)
    assert _recipe(endpoint_url="https://s3.example.org", retries=3).storage.retries == 3
    assert storage.current() == StorageSettings() and dict(os.environ) == before


def test_a_section_that_does_not_read_changes_nothing() -> None:
    before = dict(os.environ)
    for given in ({"endpoint_url": 5}, {"secret": "hunter2"}, "s3", {"retries": -1}):
        use_storage({"storage": given})
    assert storage.current() == StorageSettings() and dict(os.environ) == before


def test_the_section_is_in_force_and_in_no_identity() -> None:
    plain, other = _recipe(), _recipe(endpoint_url="https://s3.example.org", retries=3)
    use_storage(other.plain())
    assert storage.current() == other.storage and other.storage.retries == 3
    assert plain.identity() == other.identity() and plain.name == other.name
    assert plain.first_stage_identity() == other.first_stage_identity()
    assert other.public()["storage"]["endpoint_url"] == "https://s3.example.org"
    assert "storage" not in other.carried()
    assert resolve(other.plain(), Catalog.discover()) == other
    use_storage({})  # a recipe without the section leaves what was set
    assert storage.current().retries == 3


@pytest.mark.parametrize("key", ["key", "secret", "token", "aws_secret_access_key", "password", "username"])
def test_a_key_in_a_recipe_is_refused(key: str) -> None:
    plain: dict[str, Any] = {}
    overrides.apply_overrides(plain, [f"storage.{key}=hunter2", "storage.retries=2"], [])
    with pytest.raises(ConfigError, match=f"storage.{key}: credentials do not belong in a recipe") as caught:
        resolve(plain, Catalog.discover())
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value) and "profile" in str(caught.value)
    assert "hunter2" not in str(caught.value) and "hunter2" not in str(dict(os.environ))


@pytest.mark.parametrize(
    ("address", "said"),
    [("https://me:hunter2@host", "credentials do not belong"), ("host:9000", "expected an address such as")],
)
def test_addresses_are_checked(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"storage\.endpoint_url: {said}") as caught:
        _recipe(endpoint_url=address)
    assert "hunter2" not in str(caught.value)


def test_settings_become_options_of_the_clients() -> None:
    settings = StorageSettings(
        endpoint_url="http://host:9", region="eu", profile="mine", anon=True, connect_timeout=3, read_timeout=7
    )
    options = storage_options._s3(settings, {"config_kwargs": {"max_pool_connections": 5}})
    assert options == {
        "endpoint_url": "http://host:9",
        "profile": "mine",
        "anon": True,
        "client_kwargs": {"region_name": "eu"},
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 3,
            "read_timeout": 7,
            "retries": {"max_attempts": 0},
            "max_pool_connections": 5,
        },
    }
    # what fsspec has from FSSPEC_S3_ENDPOINT_URL is not overridden by what a recipe leaves out
    assert "endpoint_url" not in storage_options._s3(StorageSettings(), {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; time passes by them alone."""
    pauses: list[float] = []

    class Longest:
        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (0.5, 1.0)
            return high

    monkeypatch.setattr(retry, "_CHANCE", Longest())
    monkeypatch.setattr(retry, "_KNOWN", retry._Known())
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0 + sum(pauses))
    return pauses


class _Fails:
    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def _tried(work: _Fails, **settings: Any) -> str:
    storage.configure(StorageSettings(**settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        return retry.retrying("read", "s3://box/file", work)


def test_pauses_double_up_to_a_limit(clock: list[float]) -> None:
    work = _Fails(8, ShortError("short"))
    assert _tried(work) == "done" and work.calls == 9
    assert clock == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


def test_the_number_and_the_time_of_retries_have_limits(clock: list[float]) -> None:
    work = _Fails(99, ShortError("short"))
    with pytest.raises(StorageError, match=r"cannot read s3://box/file: short \(tried 4 times in 4 s\)"):
        _tried(work, retries=3)
    assert work.calls == 4 and clock == [0.5, 1.0, 2.0]
    clock.clear()
    work = _Fails(99, ShortError("short"))
    with pytest.raises(StorageError, match=r"\(tried 5 times in 8 s\)"):
        _tried(work, time_limit=10.0)
    assert clock == [0.5, 1.0, 2.0, 4.0]
    with pytest.raises(StorageError, match=r"cannot read s3://box/file: short$"):
        _tried(_Fails(1, ShortError("short")), retries=0)


def test_progress_is_not_counted_against_the_retries(clock: list[float]) -> None:
    work = _Fails(20, ShortError("short"))
    storage.configure(StorageSettings(retries=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        assert retry.retrying("read", "s3://box/file", work, lambda: work.calls) == "done"
    assert clock == [0.5] * 20


def test_what_passes_and_what_does_not() -> None:
    exceptions = pytest.importorskip("botocore.exceptions", reason="needs the extra s3")
    errors = pytest.importorskip("s3fs.errors", reason="needs the extra s3")

    def answer(status: int, code: str) -> Exception:
        response = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        translated: Exception = errors.translate_boto_error(exceptions.ClientError(response, "GetObject"))
        return translated

    passing = [
        *(answer(s, c) for s, c in [(500, "InternalError"), (503, "SlowDown"), (503, "503"), (429, "TooManyRequests")]),
        *(
            answer(s, c)
            for s, c in [(400, "RequestTimeout"), (409, "OperationAborted"), (400, "BadDigest"), (502, "502")]
        ),
        exceptions.ReadTimeoutError(endpoint_url="http://host"),
        exceptions.EndpointConnectionError(
            endpoint_url="http://host", error=ConnectionResetError(errno.ECONNRESET, "x")
        ),
        exceptions.ResponseStreamingError(error=OSError("x")),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(),
        ShortError("short"),
    ]
    assert [str(error) for error in passing if not is_passing(error)] == []
    lasting = [
        *(answer(s, c) for s, c in [(403, "ExpiredToken"), (403, "AccessDenied"), (403, "403"), (404, "NoSuchKey")]),
        *(answer(s, c) for s, c in [(404, "NoSuchBucket"), (501, "NotImplemented"), (412, "PreconditionFailed")]),
        *(answer(s, c) for s, c in [(400, "EntityTooSmall"), (403, "InvalidAccessKeyId"), (301, "PermanentRedirect")]),
        exceptions.NoCredentialsError(),
        exceptions.SSLError(endpoint_url="https://host", error=OSError("certificate verify failed")),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError("x"),
        StorageError("said already"),
        ValueError("a bug"),
    ]
    assert [str(error) for error in lasting if is_passing(error)] == []
    assert reason(answer(403, "ExpiredToken"), "s3://b/k") == (
        "the credentials have expired (ExpiredToken); get new ones and start again"
    )
    assert reason(answer(404, "NoSuchBucket"), "s3://b/k") == "there is no bucket 'b'; check the spelling, or make it"
    assert reason(exceptions.NoCredentialsError(), "s3://b/k") == "Unable to locate credentials; set your credentials"


def test_the_defaults_are_those_that_the_documents_give() -> None:
    settings = StorageSettings()
    assert attrs.asdict(settings) == {
        "endpoint_url": "", "region": "", "profile": "", "anon": False, "connect_timeout": 10.0, "read_timeout": 60.0,
        "retries": 10, "time_limit": 600.0,
    }  # fmt: skip
