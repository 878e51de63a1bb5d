"""uvicorn with a time limit for the heads of requests, and an end with answers for finished work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ldm_core.errors import ConfigError
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.web.guard import Guard

_CONNECTIONS = 512
_HEAD = 32 << 10  # bytes of the head of a request


def protocol(head_time: float) -> type[H11Protocol]:
    """uvicorn's protocol, closing connections without a whole head in time."""

    class Held(H11Protocol):
        """See :func:`protocol`."""

        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._rest()  # a whole head has come
            elif self._clock is None:
                self._wait()

        def _wait(self) -> None:
            self._clock = self.loop.call_later(head_time, self._late)

        def _rest(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _late(self) -> None:
            self._clock = None
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.transport is not None and not self.transport.is_closing():
                self.transport.abort()

    return Held


class Server(uvicorn.Server):
    """A server with the engine told of a signal at once, and a quiet end."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self.signalled = False

    async def startup(self, sockets: Any = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def end(self) -> None:
        """End as after a signal; from any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn; a second signal ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def told(number: int, frame: Any) -> None:
            self.signalled = True
            if self.should_exit:
                self.force_exit = True
            self.end()

        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, told) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def bound(host: str, port: int) -> socket.socket:
    """A socket bound there; :class:`ConfigError` if it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) where a socket says its protocol; else a body waits 40 ms behind its head
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host.strip("[]"), port))
    except OSError as error:
        made.close()
        raise ConfigError(f"cannot listen at {host} port {port}: {error.strerror or error}; choose another") from None
    return made


def server(app: Guard, limits: Limits, host: str, port: int) -> Server:
    """The server of an application; ``run()`` it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol(limits.head_time),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEAD,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.stop + 1),
    )
    return Server(config, app.app.state.site.engine.stop)
