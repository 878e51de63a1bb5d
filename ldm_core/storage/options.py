"""Settings of storage (server, waiting times, tries), and fsspec's filesystems under them.

Credentials are never among the settings. They come from where every S3 tool looks (``AWS_ACCESS_KEY_ID`` and its
like, ``~/.aws``, a machine's role) or from fsspec's own ``FSSPEC_S3_*``; the address too may come from
``AWS_ENDPOINT_URL``. The settings stand in the environment of this process, so that every process started from it
has them, whatever way it is started.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from ldm_core.config.fields import field
from ldm_core.errors import StorageError
from ldm_core.storage.failures import chained, from_network, odd, one_line, reason
from ldm_core.storage.local import exists, is_folder, require_regular
from ldm_core.storage.paths import local_path, protocol, short

S3 = ("s3", "s3a")
HUB = "hf"
WEB = ("http", "https")
VARIABLE = "LDM_STORAGE"
"""Environment variable with the settings for processes started from this one (JSON)."""
_SECRET = ("key", "secret", "token", "password", "passwd", "username", "user", "credential", "client_kwargs")
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "http": "s3",
    "https": "s3",
    HUB: "hub",
}  # protocol -> the extra of ldm-core that brings it


def configure(settings: StorageSettings | None) -> None:
    """Take `settings` for every remote URL of this process and of those that it starts; None: the defaults again."""
    changed = {} if settings is None else attrs.asdict(settings, filter=lambda a, v: v != a.default)
    if changed:
        os.environ[VARIABLE] = json.dumps(changed)
    else:
        os.environ.pop(VARIABLE, None)


def current() -> StorageSettings:
    """The settings that are in force."""
    return _read(os.environ.get(VARIABLE, ""))


@functools.lru_cache(maxsize=8)
def _read(text: str) -> StorageSettings:
    return StorageSettings(**json.loads(text)) if text else StorageSettings()


def secrets_among(given: Mapping[str, Any]) -> list[str]:
    """The keys of a recipe's ``storage`` section with credentials; they do not belong in a file."""
    return [key for key in map(str, given) if any(word in key.lower() for word in _SECRET)]


def filesystem(url: str | os.PathLike[str]) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path in it; an error names the missing package.

    Ask for it anew in each process: it belongs to a thread that a forked child does not have, and fsspec keeps one for
    each process. It keeps no listings: what another process writes or removes is seen at once.
    """
    import fsspec

    text = os.fspath(url)
    path = local_path(text)
    if path is not None:
        return fsspec.filesystem("file"), str(path.absolute())
    name = protocol(text)
    if name not in fsspec.available_protocols() and name not in fsspec.registry:
        raise StorageError(
            f"{short(text)}: no storage called '{short(name)}://'; use a path, file://, s3://, https:// "
            "or another protocol that fsspec knows"
        )
    try:
        fs, inner = _opened(name, text, _keywords(text, fsspec.config.conf))
    except ImportError as error:
        extra = _EXTRAS.get(name)
        fix = f"pip install 'ldm-core[{extra}]'" if extra else one_line(error)
        raise StorageError(f"{short(text)}: URLs of '{name}://' need another package: {fix}") from chained(error, text)
    except Exception as error:  # filesystems raise anything: TypeError, KeyError, ValueError
        known = from_network(error) or isinstance(error, OSError)
        why = reason(error, text) if known else f"fsspec cannot take it ({odd(error)}); check the URL"
        raise StorageError(f"cannot reach {short(text)}: {why}") from chained(error, text)
    if name in S3:
        fs.retries = 1  # storage_retry repeats what failed, with a word to the user; two loops would multiply
    return fs, inner


def _opened(name: str, text: str, keywords: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    if name == HUB:
        from ldm_core.storage.hub import HubFileSystem

        return HubFileSystem(), HubFileSystem._strip_protocol(text)
    if name not in WEB or "::" in text.partition("://")[0]:
        for part in text.split("::")[1:]:  # of zip://name::/a/file.zip; fsspec would open whatever is there
            path = local_path(part)
            if path is not None and exists(path) and not is_folder(path):
                require_regular(path.stat().st_mode)
        if "::" not in text and (lacking := _lacking(name, text, {**fsspec.config.conf.get(name, {}), **keywords})):
            raise ValueError(f"the URL does not say: {', '.join(lacking)}")
        fs, inner = fsspec.core.url_to_fs(text, **keywords)
        return fs, str(inner)
    if not urlsplit(text).hostname:
        raise ValueError("it names no host")
    return fsspec.filesystem(name, **keywords[name]), text  # url_to_fs would split [::1] as a chain of URLs


def _lacking(name: str, text: str, given: Mapping[str, Any]) -> list[str]:
    """The option that a filesystem lacks; made all the same, one may even complain when it is thrown away."""
    import fsspec

    kind = fsspec.get_filesystem_class(name)
    told = {"self", *given, *kind._get_kwargs_from_urls(text)}
    parameters = inspect.signature(kind.__init__).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return [each for each in needed if each not in told]


def _keywords(text: str, conf: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """fsspec's options of the protocols in a URL, chained ones too (``simplecache::s3://...``)."""
    names = [protocol(text)] if protocol(text) in WEB else [p.partition("://")[0].lower() for p in text.split("::")]
    settings = current()
    out: dict[str, Any] = {}
    if name := next((n for n in names if n in S3), None):
        out[name] = _s3(settings, conf.get("s3", {}))
    if name := next((n for n in names if n in WEB), None):
        out[name] = _web(settings, conf.get(name, {}))
    return out


def _s3(settings: StorageSettings, conf: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "connect_timeout": settings.connect_timeout,
        "read_timeout": settings.read_timeout,
        "retries": {"max_attempts": 0},
        **conf.get("config_kwargs", {}),
    }
    out: dict[str, Any] = {"config_kwargs": config, "use_listings_cache": False}
    if settings.endpoint_url:
        out["endpoint_url"] = settings.endpoint_url
    if settings.anon:
        out["anon"] = True
    if settings.profile:
        out["profile"] = settings.profile
    if settings.region:
        out["client_kwargs"] = {**conf.get("client_kwargs", {}), "region_name": settings.region}
    return out


def _web(settings: StorageSettings, conf: Mapping[str, Any]) -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout, sock_read=settings.read_timeout)
    return {"client_kwargs": {"timeout": timeout, **conf.get("client_kwargs", {})}}


@attrs.frozen(kw_only=True)
class StorageSettings:
    """Settings of remote access. Credentials are never set here: they come from the environment or a profile."""

    endpoint_url: str = attrs.field(
        default="",
        metadata={"help": "address of an S3 server; empty: AWS_ENDPOINT_URL, or Amazon's own", "place": True},
    )
    region: str = field("", "region of the buckets; empty: as in the environment")
    profile: str = field("", "profile of ~/.aws to take credentials from; empty: as in the environment", place=True)
    anon: bool = field(False, "read public buckets without credentials")
    connect_timeout: float = field(10.0, "seconds to make a connection", above=0, maximum=10**6)
    read_timeout: float = field(
        60.0, "seconds without a byte in either direction, after which it is tried again", above=0, maximum=10**6
    )
    retries: int = field(10, "how many times a failed request is repeated; 0: never", minimum=0, maximum=10**6)
    time_limit: float = field(
        600.0, "seconds after a first failure, after which it is not repeated any more", minimum=0
    )

    @endpoint_url.validator
    def _no_secrets(self, _: Any, value: str) -> None:
        head, mark, rest = value.partition("://")
        if value and (head not in ("http", "https") or not mark or not rest or "?" in rest):
            raise ValueError("endpoint_url: expected an address such as https://s3.example.org")
        if "@" in rest:
            raise ValueError(
                "endpoint_url: credentials do not belong in an address; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or name a profile"
            )
