"""An S3 server for tests (moto's, on a free port of this machine), and a proxy before it that breaks requests.

The proxy speaks HTTP/1.1 with one request a connection. What it is to break is said by :meth:`FaultProxy.inject`;
everything else is passed on byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partialmethod
from typing import Literal

import attrs
import pytest

Fault = Literal[
    "500", "503", "403", "404", "skewed", "refused", "reset", "lost", "short", "flip", "stall", "stall_write",
    "empty", "space", "page", "error", "empty, but done", "page, but done",
]  # fmt: skip
"""empty, space, page, error: 200 with nothing, white space, a web page or an ``<Error>``, and nothing is done unless
it says so. 500, 503, 403, 404, skewed, refused: answered so, as S3 does (InternalError, SlowDown, ExpiredToken,
NoSuchUpload, RequestTimeTooSkewed, AccessDenied). reset: the connection is reset in
the middle of the body, the request's where it has one, else the answer's. lost: the request is done, its answer never
comes. short: the answer's body ends early. flip: one byte of it is another. stall: half of the answer comes, then
nothing. stall_write: half of the request is taken, then nothing."""

_CODES = {
    "500": "InternalError",
    "503": "SlowDown",
    "403": "ExpiredToken",
    "404": "NoSuchUpload",
    "skewed": "RequestTimeTooSkewed",
    "refused": "AccessDenied",
}
_PAGES = {
    "empty": "",
    "space": " \n" * 20,
    "page": "<!DOCTYPE html><html><body>Log in to this network</body></html>",
    "error": '<?xml version="1.0"?><Error><Code>InternalError</Code><Message>says the test</Message></Error>',
}
_HALVES = ("reset", "short", "flip", "stall")


@attrs.define
class Request:
    """What the proxy knows of a request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    length: int

    @property
    def writes(self) -> bool:
        """Whether it brings a body or changes what is stored."""
        return self.method in ("PUT", "POST", "DELETE")


@attrs.define
class Rule:
    """One kind of fault: how often yet (None: always), and for which requests."""

    fault: Fault
    left: int | None
    matches: Callable[[Request], bool]


class FaultProxy:
    """See the module; a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self.address = ""
        self.seen: list[tuple[str, str, str]] = []
        """(method, target, fault or "") of every request."""

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", 0)

        self._server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        self.address = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    def stop(self) -> None:
        """Close every connection and end the thread."""

        async def close() -> None:
            assert self._server is not None
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def inject(
        self, fault: Fault, times: int | None = None, matches: Callable[[Request], bool] = lambda _: True
    ) -> None:
        """Break the next `times` requests that match (None: all of them), in the order of the calls."""
        with self._lock:
            self._rules.append(Rule(fault, times, matches))

    def heal(self) -> None:
        """Break nothing any more, and forget what was seen."""
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    @property
    def broken(self) -> int:
        """How many requests were broken so far."""
        return sum(1 for _, _, fault in self.seen if fault)

    def _fault_of(self, request: Request) -> str:
        with self._lock:
            rule = next((r for r in self._rules if r.left != 0 and r.matches(request)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
            fault = "" if rule is None else rule.fault
            self.seen.append((request.method, request.target, fault))
            return fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _head(reader)
            if request is not None:
                await self._answer(request, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault_of(request)
        if {k.lower(): v for k, v in request.headers}.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault in ("stall_write", "reset") and request.length > 1:
            await reader.readexactly(request.length // 2)
            if fault == "reset":
                _reset(writer)
            else:
                await _until_gone(writer)
            return
        body = await reader.readexactly(request.length) if request.length else b""
        if fault in _CODES:
            writer.write(_refusal(fault, request.method))
            await writer.drain()
            return
        page, _, done = fault.partition(", ")
        if page in _PAGES and not done:
            writer.write(_page(page, request.method))
            await writer.drain()
            return
        answer = await self._forward(request, body)
        if page in _PAGES:
            answer = _page(page, request.method)
        if fault in ("lost", "stall_write") or (fault in _HALVES and not _body_of(answer)):
            if fault in ("stall", "stall_write"):
                await _until_gone(writer)
            _reset(writer)
            return
        await _send(writer, answer, fault)

    async def _forward(self, request: Request, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        lines = [f"{request.method} {request.target} HTTP/1.1"]
        lines += [f"{k}: {v}" for k, v in request.headers if k.lower() not in ("connection", "expect")]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


async def _head(reader: asyncio.StreamReader) -> Request | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
    length = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
    return Request(method, target, headers, length)


def _body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def _send(writer: asyncio.StreamWriter, answer: bytes, fault: str) -> None:
    head, blank, body = answer.partition(b"\r\n\r\n")
    if fault == "flip":
        at = len(body) // 2
        body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    whole = fault not in ("reset", "short", "stall")
    writer.write(head + blank + (body if whole else body[: len(body) // 2]))
    await writer.drain()
    if fault in ("reset", "short"):
        await asyncio.sleep(0.02)  # the end of a connection takes with it what was not read yet
    if fault == "reset":
        _reset(writer)
    elif fault == "stall":
        await _until_gone(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _until_gone(writer: asyncio.StreamWriter) -> Awaitable[None]:
    """Wait until the other side gives up; its bytes stay where they are."""

    async def wait() -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        sock = writer.get_extra_info("socket")
        for _ in range(6000):
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1:  # no longer ESTABLISHED
                    return
            await asyncio.sleep(0.05)

    return wait()


def _page(page: str, method: str) -> bytes:
    body = _PAGES[page].encode() if method != "HEAD" else b""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def _refusal(fault: str, method: str) -> bytes:
    code, status = _CODES[fault], fault if fault.isdigit() else "403"
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>'.encode()
    if method == "HEAD":
        body = b""
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body


SECRET = "hunter2-very-secret"
"""The secret key under which the tests speak to the server; it must not turn up anywhere."""


@contextlib.contextmanager
def s3_server(bucket: str = "box") -> Iterator[tuple[str, int]]:
    """A server with an empty bucket; the environment holds credentials for it and no address. Its host and port."""
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler

    patch = pytest.MonkeyPatch()
    often = partialmethod(BaseWSGIServer.serve_forever, poll_interval=0.01)  # else its end takes half a second
    patch.setattr(BaseWSGIServer, "serve_forever", often)
    patch.setattr(WSGIRequestHandler, "disable_nagle_algorithm", True)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "AWS_ENDPOINT_URL", "LDM_STORAGE"):
        patch.delenv(name, raising=False)
    patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 256)  # of 5 MiB, for uploads in parts that take no time
    try:
        make_bucket(f"http://{host}:{port}", bucket)
        yield host, port
    finally:
        patch.undo()
        server.stop()


@contextlib.contextmanager
def s3_bucket(bucket: str) -> Iterator[str]:
    """:func:`s3_server` with its address in the environment, without faults; the bucket's URL."""
    import s3fs

    with s3_server(bucket) as (host, port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield f"s3://{bucket}"
        s3fs.S3FileSystem.clear_instance_cache()


def make_bucket(address: str, bucket: str) -> None:
    """A new bucket, and nothing else."""
    import urllib.request

    import boto3  # type: ignore[import-untyped]

    reset = urllib.request.Request(f"{address}/moto-api/reset", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(reset).close()  # all servers of a process are one
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=bucket)


def put_object(server: tuple[str, int], bucket: str, key: str, data: bytes) -> None:
    """Write an object as somebody else would."""
    import boto3

    boto3.client("s3", endpoint_url="http://{}:{}".format(*server)).put_object(Bucket=bucket, Key=key, Body=data)


@contextlib.contextmanager
def fault_proxy(upstream: tuple[str, int]) -> Iterator[FaultProxy]:
    """A proxy before the server at `upstream`."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
