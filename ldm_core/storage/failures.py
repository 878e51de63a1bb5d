"""Failures of a disk or a network: their cause, their chance to pass, their message without secrets."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from ldm_core.errors import StorageError, clean
from ldm_core.storage.paths import local_path, protocol, short, shown

_NETWORK = (
    *("botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "adlfs", "asyncio", "urllib3"),
    *("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2"),
)
_PASSING = {408, 425, 429}
_PASSING_CODES = {
    "BadDigest",  # it was damaged on its way
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_LASTING_STATUS = {501, 505}
_LASTING = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ParamValidationError",
    "ProfileNotFound",
    "ClientConnectorCertificateError",
    "SSLError",
    "InvalidURL",
)
_UNREACHED = ("ConnectTimeoutError", "ClientConnectorError", "ConnectionRefusedError", "gaierror", "ConnectError")
_BROKEN = (
    *("HttpProcessingError", "ClientPayloadError", "ConnectionResetError", "ServerDisconnectedError"),
    *("RemoteProtocolError", "ReadError", "WriteError"),
)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}


class ShortError(EOFError):
    """Less or other bytes came than the storage had announced."""


class LostError(ShortError):
    """A storage with a false report of success."""


class ChangedError(OSError):
    """The file was replaced while it was read: all of it is to be read again."""


class IrregularError(OSError):
    """A pipe, a device or a socket in the place of a regular file."""


class TooLargeError(OSError):
    """More bytes than are read of a file of its kind."""


class RefusedError(OSError):
    """The last word of a storage; its text is the line for the user."""


class OddError(OSError):
    """Exceptions of fsspec's filesystems beside those of the network."""


class ReplacedError(Exception):
    """As :class:`ChangedError`, for a part of a file with other parts already read."""


def from_network(error: BaseException) -> bool:
    """True if a library of the network raised it."""
    return any(kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__)


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and the errors behind it, outermost first; botocore keeps its wrapped one among its keywords."""
    chain = [error]
    while True:
        last = chain[-1]
        behind = last.__cause__ or (getattr(last, "kwargs", None) or {}).get("error")
        if not isinstance(behind, BaseException) or behind in chain:
            return chain
        chain.append(behind)


def root_of(error: BaseException) -> BaseException:
    """The network's error behind one made of it by s3fs or fsspec: a server's answer, or the closest to it."""
    chain = _chain(error)
    answered = next((each for each in chain if status_of(each) != (0, "")), None)
    network = (each for each in reversed(chain) if from_network(each) and isinstance(each, Exception))
    return answered or next(network, error)


def status_of(error: BaseException) -> tuple[int, str]:
    """The HTTP status and S3's code of an error, if the server said so; (0, "") otherwise."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(response.get("Error", {}).get("Code", ""))
        return int(status or (code if code.isdigit() else 0)), code
    if any(kind.__name__ == "HttpProcessingError" for kind in type(error).__mro__):
        return 0, ""  # aiohttp gives its own code to an answer that breaks off
    for holder, name in ((error, "status"), (error, "status_code"), (error, "code"), (response, "status_code")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and 100 <= value < 600:
            return value, str(value)
    return 0, ""


def is_passing(error: BaseException) -> bool:
    """True for passing failures: server errors, slow-downs, broken or stalled connections."""
    if isinstance(error, StorageError):
        return False  # it was tried long enough
    root = root_of(error)
    kinds = {kind.__name__ for each in _chain(error) for kind in type(each).__mro__}
    if "HttpProcessingError" in kinds:
        return True  # a garbled answer, which aiohttp calls a bad request
    if kinds & set(_LASTING):
        return False
    status, code = status_of(root)
    if status or code:
        return code in _PASSING_CODES or status in _PASSING or (status >= 500 and status not in _LASTING_STATUS)
    if isinstance(root, ShortError | ChangedError | TimeoutError | ConnectionError | EOFError):
        return True
    if isinstance(
        root, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError | OddError | RefusedError
    ):
        return False
    return from_network(root)


def is_unreached(error: BaseException) -> bool:
    """True if no connection was made at all, as to a misspelt address."""
    return any(kind.__name__ in _UNREACHED for each in _chain(error)[-2:] for kind in type(each).__mro__)


@contextlib.contextmanager
def reported(doing: str, url: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any failure of storage into a StorageError; let bugs through."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | TimeoutError | EOFError) and not from_network(error):
            raise
        raise StorageError(f"cannot {doing} {short(url)}: {reason(error, os.fspath(url))}") from chained(error, url)


def odd(error: BaseException) -> str:
    """One short line of an unexpected exception: its kind and its text."""
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, without secrets."""
    return clean(shown((str(error).strip() or type(error).__name__).splitlines()[0]), 200)


def chained(error: Exception, url: str | os.PathLike[str]) -> Exception | None:
    """`error` as the cause of another; None if the URL holds secrets, because its text would repeat them."""
    return error if shown(url) == os.fspath(url) else None


def reason(error: BaseException, url: str) -> str:  # noqa: C901
    """One line: the failure and the advice, without secrets."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another place (nothing half-written was left)"
    if number == errno.EFBIG:
        return "the file-size limit was reached; raise it (ulimit -f) or choose another place"
    if number == errno.ENAMETOOLONG:
        return "its name is too long"
    if number == errno.ELOOP:
        return "its links lead in a circle"
    if number == errno.EROFS and local_path(url) is not None:
        return "the file system is read-only; choose another place"
    root = root_of(error)
    if (said := _said(*status_of(root), url)) is not None:
        return said
    if isinstance(root, FileNotFoundError):
        return "no such file or folder; check the spelling"
    if isinstance(root, IsADirectoryError):
        return "it is a folder, a file was expected"
    if isinstance(root, NotADirectoryError | FileExistsError):
        return "a part of its path is a file, not a folder"
    if any(kind.__name__ in _BROKEN for each in _chain(error) for kind in type(each).__mro__):
        return "the connection broke off; check the network and try again"
    first = one_line(root)
    if type(root).__name__ == "ParamValidationError":
        return "it names no bucket, or none that can be; write s3://bucket/key"
    if is_unreached(root):
        return f"{first}; check the address and the network"
    if isinstance(root, PermissionError):
        return f"permission denied ({first}); " + (
            "check who owns it" if local_path(url) is not None else "check your credentials"
        )
    if "credentials" in first.lower():
        return f"{first}; set your credentials"
    if isinstance(root, TimeoutError) or "Timeout" in type(root).__name__:
        return f"no answer in time ({type(root).__name__}); check the network and try again"
    if isinstance(root, ShortError | ChangedError | IrregularError | TooLargeError | OddError | RefusedError):
        return first
    if (from_network(root) and status_of(root) == (0, "")) or isinstance(root, ConnectionError):
        return f"{first}; check the network and try again"
    return first


def _said(status: int, code: str, url: str) -> str | None:
    """Meaning of a server's answer; None for no answer, or for a missing file."""
    if not status and not code:
        return None
    if code == "NoSuchBucket":
        bucket = re.sub(r"^\w+://", "", url).split("/")[0]
        return f"there is no bucket '{bucket}'; check the spelling, or make it"
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine is too far from the storage's ({code}); set it right and start again"
    if code == "NoSuchUpload":
        return "the storage knows the upload no more (NoSuchUpload); start again"
    if code in _EXPIRED:
        return f"the credentials have expired ({code}); get new ones and start again"
    if code in _DENIED or status in (401, 403):
        word = "Forbidden" if code in ("403", "") else code
        return f"permission denied ({word}); check your credentials"
    if status in (404, 410):
        return "no such file or folder; check the spelling"
    if status in (500, 502, 503, 504, 429) or code in _PASSING_CODES:
        name = f" {code}" if code and not code.isdigit() else ""
        return f"the server answers {status}{name}; check the service and try again"
    if protocol(url) in ("http", "https") or not code or code.isdigit():
        return f"the server answers {status}; check the address"
    return None
