"""A server of tiny runs in a thread of this process, and clients of it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import numpy as np
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.web.app import Site, application
from ldm_plugin_serve.web.server import Server, bound, server
from PIL import Image

from ldm_core.catalog import Catalog


@attrs.frozen(eq=False)
class Running:
    """A running server: its address, its insides, and a client."""

    url: str
    site: Site
    server: Server
    client: httpx.Client
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def sample(self, body: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/sample", json=body, **more)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def running(runs: Sequence[Path], limits: Limits | None = None, *, token: str = "") -> Iterator[Running]:
    """Serve `runs` at a free port until the block ends."""
    limits = limits or Limits()
    app = application([str(run) for run in runs], Catalog.discover(), limits, token=token)
    made, listening = server(app, limits, "127.0.0.1", 0), bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        until(lambda: made.started)
        try:
            yield Running(f"http://127.0.0.1:{port}/", app.app.state.site, made, client, thread)
        finally:
            made.end()
            thread.join(20)
            assert not thread.is_alive()


def until(true: Any, seconds: float = 20.0) -> None:
    """Wait until `true()`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def pixels(image: Mapping[str, Any]) -> Any:
    """The picture of an answer as uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB"))


def png(height: int = 8, width: int = 8, mode: str = "RGB", level: int = 200) -> str:
    """A plain picture as base64."""
    out = io.BytesIO()
    Image.new(mode, (width, height), (level,) * len(mode) if len(mode) > 1 else level).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The server-sent events of a streamed answer."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
