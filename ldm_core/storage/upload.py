"""Whole objects written to S3: in one request or in parts, done only when the object is there.

An answer alone proves nothing: proxies answer 200 with a page of their own, and a lost answer may have been a success.
Every object carries a mark of its writer. One request with the MD5 of the sent bytes in its answer needs no more; all
else, and every upload in parts, is looked at once by a HEAD.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs

from ldm_core.errors import StorageError
from ldm_core.storage.attempts import md5, md5_of, send
from ldm_core.storage.failures import LostError, root_of, status_of
from ldm_core.storage.parallel import at_once
from ldm_core.storage.paths import short
from ldm_core.storage.retry import retrying

_WRITER = "ldm-writer"
_UPLOADS = 3  # of one object, where the storage forgets them before they are done


@attrs.frozen
class Upload:
    """One object to be written: `data` at `bucket`/`key`, called `url` in messages; `mine` marks it as this one's."""

    fs: Any
    bucket: str
    key: str
    data: bytes | Path
    size: int
    url: str
    mine: str = attrs.field(factory=lambda: secrets.token_hex(16))

    @property
    def place(self) -> dict[str, str]:
        """Name in S3's answers."""
        return {"Bucket": self.bucket, "Key": self.key}

    def slice(self, start: int, length: int) -> bytes | memoryview:
        """`length` bytes of it."""
        if not isinstance(self.data, Path):
            return memoryview(self.data)[start : start + length]
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def found(self, mark: str) -> Literal["ours", "other", "none", "hidden"]:
        """The object there now. Its ETag is `mark` if it is ours and the storage makes it of MD5s; "hidden" if it may
        be written and not read."""
        try:
            there = self.fs.call_s3("head_object", **self.place)
        except FileNotFoundError:
            return "none"
        except PermissionError:
            return "hidden"
        ours = there.get("Metadata", {}).get(_WRITER) == self.mine or (mark and _etag(there) == mark)
        return "ours" if ours and there.get("ContentLength") == self.size else "other"

    def unless_there(self, work: Callable[[], None], mark: str) -> None:
        """Do `work`, whose answers may all be lost or spoilt: no failure if the object is there all the same."""
        try:
            work()
        except StorageError:  # it was tried long enough
            with contextlib.suppress(Exception):
                if self.found(mark) == "ours":
                    return
            raise

    def require_there(self, answer: Any, mark: str) -> None:
        """LostError if the object is not there, whatever the `answer` to its writing says."""
        found = retrying("look for", self.url, lambda: self.found(mark))
        said = _etag(answer)
        if found == "ours" or (found == "hidden" and said):
            return
        if found == "other" and mark and said == mark:  # it was there, and somebody has replaced it since
            return
        raise LostError(
            "the answer is that it was written, and it is not there; a proxy may have answered for the storage"
        )


def write_whole(upload: Upload) -> None:
    """Write it in one request."""
    whole = upload.data.read_bytes() if isinstance(upload.data, Path) else upload.data
    mark = md5(whole)
    upload.unless_there(lambda: retrying("write", upload.url, lambda: _put(upload, whole, mark)), mark)


def _put(upload: Upload, whole: bytes, mark: str, **condition: str) -> None:
    answer = send(upload.fs, "put_object", whole, Metadata={_WRITER: upload.mine}, **condition, **upload.place)
    if not md5_of(answer):  # which was compared
        upload.require_there(answer, mark)


def write_new(upload: Upload, data: bytes) -> bool:
    """Write `data` in one request unless something is there: whether it was written."""

    def put() -> bool:
        try:
            _put(upload, data, "", IfNoneMatch="*")
        except Exception as error:
            if isinstance(error, FileExistsError) or status_of(root_of(error))[0] == 412:
                return False
            raise
        return True

    def whose() -> bool:
        if (found := upload.found("")) == "hidden":
            raise PermissionError("what is there may not be looked at")
        return found == "ours"

    # A request whose answer was lost is sent again, by aiohttp too, without a word; the object then says whose it is.
    return retrying("write", upload.url, put) or retrying("write", upload.url, whose)


def write_parts(upload: Upload, length: int) -> None:
    """Write it in parts of `length` bytes; anew, a few times, if the storage forgets the upload on the way."""
    begun = 0

    def attempt() -> None:
        nonlocal begun
        begun += 1
        try:
            _write_parts(upload, length)
        except _ForgottenError as error:
            if begun >= _UPLOADS:
                raise StorageError(
                    f"cannot write {short(upload.url)}: the storage forgot the upload before it was done "
                    f"(NoSuchUpload), {begun} times; does something end uploads there, such as a rule of the bucket?"
                ) from error
            raise LostError("the storage forgot the upload before it was done (NoSuchUpload)") from None

    retrying("write", upload.url, attempt)


class _ForgottenError(OSError):
    """The storage knows the upload no more."""


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if status_of(root_of(error))[1] == "NoSuchUpload":
            raise _ForgottenError("NoSuchUpload") from error
        raise


def _write_parts(upload: Upload, length: int) -> None:
    fs, url, size = upload.fs, upload.url, upload.size
    begin = _answered(
        lambda: fs.call_s3("create_multipart_upload", Metadata={_WRITER: upload.mine}, **upload.place), "UploadId"
    )
    place = {**upload.place, "UploadId": retrying("write", url, begin)["UploadId"]}

    def part(number: int) -> dict[str, Any]:
        piece = upload.slice(number * length, min(length, size - number * length))
        put = _answered(lambda: send(fs, "upload_part", piece, PartNumber=number + 1, **place), "ETag")
        with _forgotten():
            answer = retrying("write", url, put)
        return {"PartNumber": number + 1, "ETag": answer["ETag"], "md5": md5_of(answer)}

    try:
        _complete(upload, place, at_once(part, range(-(-size // length))))
    except BaseException:
        with contextlib.suppress(Exception):  # what failed is what counts; S3 can be told to drop what is left
            fs.call_s3("abort_multipart_upload", **place)
        raise


def _answered(ask: Callable[[], Any], key: str) -> Callable[[], Any]:
    """`ask`, with a `key` in its answer if S3 gave it."""

    def attempt() -> Any:
        answer = ask()
        if not answer.get(key):
            raise LostError(f"the answer holds no {key}; a proxy may have answered for the storage")
        return answer

    return attempt


def _complete(upload: Upload, place: dict[str, str], parts: list[dict[str, Any]]) -> None:
    """Make an object of its parts. A repeated request may find it done by the first one, with its answer lost."""
    listed = [{k: v for k, v in each.items() if k != "md5"} for each in parts]
    joined = hashlib.md5(b"".join(bytes.fromhex(each["md5"]) for each in parts), usedforsecurity=False).hexdigest()
    mark = f"{joined}-{len(parts)}" if all(each["md5"] for each in parts) else ""

    def complete() -> None:
        try:
            with _forgotten():
                answer = upload.fs.call_s3("complete_multipart_upload", MultipartUpload={"Parts": listed}, **place)
        except _ForgottenError:
            if upload.found(mark) != "ours":
                raise
        else:
            upload.require_there(answer, mark)

    upload.unless_there(lambda: retrying("write", upload.url, complete), mark)


def _etag(answer: Any) -> str:
    return str(answer.get("ETag", "")).strip('"')
