"""The guard before all routes: who may ask, for how long, how much. Every answer leaves with its headers.

* ``Host`` must be an address, ``localhost`` or a name given at the start: a page of another name for this machine (DNS
  rebinding) is refused.
* ``Origin`` must be the server's own; other sites' pages get nothing (no CORS headers either).
* A token, where there is one, is asked for by everything but the page's own files and ``/healthz``.
* Bodies have a size and a time to arrive; answers have a time to be taken.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.figures import Figures
from ldm_plugin_serve.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
"""Headers of every answer."""
_DRAINED, _DRAIN_TIME = 64 << 20, 2.0  # bytes and seconds
_OPEN = re.compile(r"/|/compare|/healthz|/docs|/docs/style\.css|/openapi\.json|/favicon\.ico|/page/.*")
"""Paths without secrets: the page's own files, and a sign of life."""


class Guard:
    """An ASGI application around another one; see the module's docstring."""

    def __init__(
        self, app: Any, limits: Limits, figures: Figures, *, token: str = "", names: Sequence[str] = ()
    ) -> None:
        self.app, self.limits, self.figures, self.token = app, limits, figures, token
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in reversed(scope["headers"])}
        outward = self._outward(scope, send)
        try:
            self._admit(scope, headers)
            self._measure(headers)
        except Fault as fault:
            self.figures.refused.labels("guard").inc()
            more = {"www-authenticate": "Bearer"} if fault.status == 401 else {}
            more["connection"] = "close"
            await _drained(receive)
            await JSONResponse(fault.document(), fault.status, headers=more)(scope, receive, outward)
            return
        await self.app(scope, self._inward(receive), outward)

    def _admit(self, scope: Any, headers: MutableMapping[str, str]) -> None:
        host = headers.get("host", "")
        name = _name_of(host)
        if name not in self.names and not _is_address(name):
            raise Fault("this server does not answer to that name", "Host", status=421,
                        fix="ask by address, or start the server with --name NAME")  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Fault("pages of other sites may not ask", "Origin", status=403)
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise Fault("pages of other sites may not ask", "Sec-Fetch-Site", status=403)
        if self.token and not _OPEN.fullmatch(scope["path"]):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
                raise Fault("a token is needed", "Authorization", status=401, fix="send Authorization: Bearer TOKEN")

    def _measure(self, headers: MutableMapping[str, str]) -> None:
        said = headers.get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > self.limits.body:
            raise Fault(f"the body is larger than {self.limits.body:,} bytes", "body", status=413)

    def _inward(self, receive: Receive) -> Receive:
        """`receive` with a limit of bytes, and of time until the body is there."""
        count, ended, deadline = [0], [False], asyncio.get_running_loop().time() + self.limits.body_time

        async def held() -> Message:
            if ended[0]:
                return await receive()  # the wait for a client to go
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                raise Fault("the request took too long to arrive", "body", status=408) from None
            count[0] += len(message.get("body", b""))
            ended[0] = not message.get("more_body", False)
            if count[0] > self.limits.body:
                await _drained(receive, message)
                raise Fault(f"the body is larger than {self.limits.body:,} bytes", "body", status=413)
            return message

        return held

    def _outward(self, scope: Any, send: Send) -> Send:
        """`send` with the headers, and a time for the client to take each part."""

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {key for key, _ in message.get("headers", [])}
                more = [(key, value) for key, value in HEADERS if key not in own]
                if b"cache-control" not in own:
                    more.append((b"cache-control", b"no-store"))
                message["headers"] = [*message.get("headers", []), *more]
                self.figures.requests.labels(_route(scope["path"]), str(message["status"])).inc()
            await asyncio.wait_for(send(message), self.limits.send_time)

        return held


async def _drained(receive: Receive, message: Message | None = None) -> None:
    """Read the rest of a refused body for a while: else the connection is reset, and the answer with it."""
    left, end = _DRAINED, asyncio.get_running_loop().time() + _DRAIN_TIME
    while left > 0 and (message is None or message.get("more_body", False)):
        try:
            message = await asyncio.wait_for(receive(), max(0.001, end - asyncio.get_running_loop().time()))
        except TimeoutError:
            return
        left -= len(message.get("body", b""))


def _route(path: str) -> str:
    """A path without the names of jobs and models: figures stay few."""
    parts = path.strip("/").split("/")
    if parts[0] in ("page", "compare", "docs", "healthz", "metrics", ""):
        return "/" + parts[0]
    if parts[0] != "v1":
        return "other"
    known = {"models", "sample", "jobs", "read", "runs", "compare", "events", "curves", "previews", "pairs", "votes"}
    return "/v1/" + "/".join(part for part in parts[1:] if part in known)


def _name_of(host: str) -> str:
    """The name or address of a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """True for an address of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
