"""One read or write of a remote file, in checked attempts, each going on from the last one's break.

S3 and HTTP are spoken to through s3fs's and fsspec's clients, but by requests of our own: theirs give up a whole object
for one broken connection, wait for ever for a server taking no more bytes, and do not tell of an object replaced
between two of its parts. Every other protocol goes through fsspec's plain calls, repeated whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Awaitable
from typing import Any, NoReturn, Protocol, TypeVar

from ldm_core.storage import options
from ldm_core.storage.failures import ChangedError, ReplacedError, ShortError, status_of
from ldm_core.storage.local import memory, require_size
from ldm_core.storage.options import HUB, S3, WEB

T = TypeVar("T")
_CHUNK = 2**18


def family(fs: Any) -> str:
    """``s3``, ``http``, ``hf``, or "" for all else."""
    names = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return "s3" if names & set(S3) else "http" if names & set(WEB) else HUB if HUB in names else ""


def call(fs: Any, work: Awaitable[T]) -> T:
    """Run a coroutine on the thread of an asynchronous filesystem."""
    from fsspec.asyn import sync

    async def run() -> T:
        return await work

    return sync(fs.loop, run)


class _Stream(Protocol):
    """An answer with a body to read piece by piece."""

    begins: int  # offset of the first byte in the file
    total: int | None  # bytes of the whole file, where the server says so
    mark: str
    md5: str  # of the whole file, where the server says so

    async def read(self, count: int) -> bytes: ...

    def close(self) -> None: ...


class _S3Stream:
    def __init__(self, answer: Any) -> None:
        self._body = answer["Body"]
        self.begins, self.total = _span(answer.get("ContentRange", ""), answer.get("ContentLength"))
        self.mark = str(answer.get("ETag", ""))
        self.md5 = md5_of(answer)

    async def read(self, count: int) -> bytes:
        return await self._body.read(count)

    def close(self) -> None:
        self._body.close()


class _WebStream:
    def __init__(self, answer: Any) -> None:
        self._answer = answer
        length = answer.headers.get("Content-Length", "")
        partial = answer.headers.get("Content-Range", "") if answer.status == 206 else ""
        self.begins, self.total = _span(partial, int(length) if length.isdigit() else None)
        self.mark = answer.headers.get("ETag", "")
        self.md5 = ""

    async def read(self, count: int) -> bytes:
        return await self._answer.content.read(count)

    def close(self) -> None:
        self._answer.close()


def _span(content_range: str, length: int | None) -> tuple[int, int | None]:
    """Start of an answer and length of the whole file; without a range it is the whole file."""
    match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None:
        return 0, length
    return int(match[1]), None if match[2] == "*" else int(match[2])


def md5_of(answer: Any) -> str:
    """The MD5 in S3's answer: its ETag, unless the object came in parts or is encrypted with a key."""
    encrypted = answer.get("ServerSideEncryption", "") not in ("", "AES256") or "SSECustomerAlgorithm" in answer
    etag = str(answer.get("ETag", "")).strip('"')
    return etag if not encrypted and re.fullmatch(r"[0-9a-f]{32}", etag) else ""


def md5(data: bytes | bytearray | memoryview) -> str:
    """MD5 as S3 uses it, to find damage."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def _open(fs: Any, inner: str, start: int, stop: int | None, mark: str) -> _Stream | None:
    """The answer to a request of bytes start..stop; None if the file ends before them."""
    asked = f"bytes={start}-{'' if stop is None else stop - 1}"
    if family(fs) == "s3":
        bucket, key, version = fs.split_path(inner)
        more = {"IfMatch": mark} if mark else {}
        if version:
            more["VersionId"] = version
        try:
            return _S3Stream(await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=asked, **more))
        except OSError as error:
            status = status_of(error.__cause__ or error)[0]
            if status == 416:
                return None
            if status == 412:
                raise ChangedError("it was replaced while it was read") from error
            raise
    session = await fs.set_session()
    headers = {"Range": asked, "Accept-Encoding": "identity"}
    if mark and not mark.startswith("W/"):
        headers["If-Range"] = mark
    answer = await session.get(fs.encode_url(inner), **{**fs.kwargs, "headers": headers})
    try:
        if answer.status == 416:
            answer.close()
            return None
        if answer.status == 410:
            raise FileNotFoundError(inner)
        fs._raise_not_found_for_status(answer, inner)
    except BaseException:
        answer.close()
        raise
    return _WebStream(answer)


class Download:
    """Bytes start..stop of a remote file (stop None: `most` bytes at most), over as many attempts as it takes.

    `total` is the file's size and `mark` its ETag, both once a first attempt has got an answer. With a `mark` given,
    another file in its place is a :class:`~ldm_core.storage.failures.ReplacedError`; without, reading starts over. A
    server without ranges sends everything: then `data` goes on to the file's end if stop is None.
    """

    def __init__(self, fs: Any, inner: str, start: int, stop: int | None, *, most: int = 0, mark: str = "") -> None:
        self._fs, self._inner, self._start, self._stop, self._most = fs, inner, start, stop, most
        self._fixed = bool(mark)
        self.mark = mark
        self.total: int | None = None
        self.data = bytearray()

    def progress(self) -> int:
        """Bytes received so far."""
        return len(self.data)

    def attempt(self) -> bytes:
        """Read the missing bytes and hand all out; any failure keeps those received."""
        if not family(self._fs):
            self.data[:] = self._plain()
        elif family(self._fs) == HUB:
            self._ask_hub()
        elif self._stop is None or self._stop > self._start:
            call(self._fs, self._pull())
        out, self.data = bytes(self.data), bytearray()
        return out

    def _plain(self) -> bytes:
        stop = self._start + self._most if self._stop is None and self._most else self._stop
        if self.total is None and self._most:
            self.total = int(self._fs.info(self._inner)["size"])
        start = self._start or None
        if not getattr(self._fs, "async_impl", False):
            return bytes(self._fs.cat_file(self._inner, start=start, end=stop))
        import asyncio  # with the first remote file: it takes longer than the rest of a start without one

        limit = options.current().time_limit or None
        return bytes(call(self._fs, asyncio.wait_for(self._fs._cat_file(self._inner, start=start, end=stop), limit)))

    def _ask_hub(self) -> None:
        """All bytes in one request; nothing of a failed one is kept, as each is of one part of a file."""
        from ldm_core.storage.hub import fetch

        settings = options.current()
        stop = self._start + self._most if self._stop is None and self._most else self._stop
        if stop is not None and stop <= self._start:
            return
        answer = fetch(self._fs, self._inner, self._start, stop, (settings.connect_timeout, settings.read_timeout))
        if answer is None:
            return
        begins, total = _span(answer.content_range, answer.length)
        if self.mark and answer.mark and answer.mark != self.mark:
            self._replaced()
        self.mark, self.total = answer.mark, total
        if begins != self._start and self._stop is None:
            stop = None  # no ranges here, as in _pull
        ends = total if stop is None else stop if total is None else min(stop, total)
        self.data[:] = answer.data[self._start - begins : None if ends is None else ends - begins]
        if ends is not None and self._start + len(self.data) < ends:
            raise ShortError(f"only {len(self.data)} of {ends - self._start} bytes came")

    async def _pull(self) -> None:
        import asyncio

        settings = options.current()
        at = self._start + len(self.data)
        stop = self._start + self._most if self._stop is None and self._most else self._stop
        if stop is not None and at >= stop:
            return
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.read_timeout):
                stream = await _open(self._fs, self._inner, at, stop, self.mark)
        except ChangedError:
            self._replaced()
        if stream is None:
            return
        try:
            if self.mark and stream.mark and stream.mark != self.mark:
                self._replaced()
            self.mark, self.total = stream.mark, stream.total
            if stream.begins != at and stop is not None and self._stop is None:
                stop = None  # no ranges here: what is not read now would have to be sent again
            await self._read(stream, at, stop, settings.read_timeout)
        finally:
            stream.close()

    def _replaced(self) -> NoReturn:
        if self._fixed:
            raise ReplacedError("it was replaced while it was read")
        self.data.clear()
        self.mark = ""
        raise ChangedError("it was replaced while it was read")

    async def _read(self, stream: _Stream, at: int, stop: int | None, patience: float) -> None:
        import asyncio

        skip = at - stream.begins
        end = stream.total if stop is None else stop if stream.total is None else min(stop, stream.total)
        while end is None or self._start + len(self.data) < end:
            left = _CHUNK if end is None else min(_CHUNK, end - self._start - len(self.data) + skip)
            async with asyncio.timeout(patience):
                piece = await stream.read(left)
            if not piece:
                break
            self.data += piece[skip:]
            skip = max(0, skip - len(piece))
            require_size(len(self.data), memory())
        have = self._start + len(self.data)
        if end is not None and have < end and stream.total is not None:  # else the stream's end is the file's
            raise ShortError(f"only {len(self.data)} of {end - self._start} bytes came")
        if stream.md5 and self._start == 0 and have == stream.total and md5(self.data) != stream.md5:
            self.data.clear()
            raise ShortError("the bytes that came are not those that the storage has (MD5)")


class _Body(io.RawIOBase):
    """Bytes to send, and when the last of them were taken."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0
        self.taken = time.monotonic()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self.taken = time.monotonic()
        return len(piece)


def send(fs: Any, method: str, data: bytes | memoryview, **keywords: Any) -> Any:
    """One S3 request with a body; TimeoutError when the server takes no more bytes, or does not answer.

    An MD5 in the answer is compared.
    """
    answer = call(fs, _send(fs, method, memoryview(data), keywords))
    if (theirs := md5_of(answer)) and theirs != md5(data):
        raise ShortError("what the storage has got is not what was sent (MD5)")
    return answer


async def _send(fs: Any, method: str, data: memoryview, keywords: dict[str, Any]) -> Any:
    import asyncio

    settings = options.current()
    limit = settings.connect_timeout + settings.read_timeout
    body = _Body(data)
    task = asyncio.ensure_future(fs._call_s3(method, Body=body, **keywords))
    while True:
        left = body.taken + limit - time.monotonic()
        done, _ = await asyncio.wait({task}, timeout=max(left, 0.01))
        if done:
            return task.result()
        if time.monotonic() - body.taken >= limit:
            task.cancel()
            await asyncio.wait({task}, timeout=5.0)
            raise TimeoutError(f"the server took nothing for {limit:g} s")
