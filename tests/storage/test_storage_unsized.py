"""Web servers that do not say how large a file is, or never end it: all of it is read, up to a limit, or an error."""

from __future__ import annotations

import contextlib
import http.server
import random
import threading
from collections.abc import Iterator

import pytest

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.storage import attempts, transfer
from ldm_core.storage.options import StorageSettings

pytest.importorskip("aiohttp", reason="needs the extra s3")

DATA = random.Random(3).randbytes(300_001)


class Unsized(http.server.BaseHTTPRequestHandler):
    """Knows no ranges and tells no length; the end of the connection is that of the file, if there is one."""

    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with contextlib.suppress(OSError):
            if self.path in ("/x", "/small"):
                self.wfile.write(DATA if self.path == "/x" else DATA[:99])
            while self.path == "/endless":
                self.wfile.write(DATA)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "READ_PART", 2**16)
    monkeypatch.setattr(transfer, "BLOCK", 2**15)
    monkeypatch.setattr(attempts, "memory", lambda: 2**21)
    storage.configure(StorageSettings(retries=1, time_limit=5, connect_timeout=2, read_timeout=2))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unsized)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    storage.configure(None)


def test_all_of_it_is_read(server: str) -> None:
    assert storage.read_bytes(f"{server}/x") == DATA
    assert storage.read_bytes(f"{server}/x", most=len(DATA)) == DATA
    assert storage.read_bytes(f"{server}/x", 10, 200_000) == DATA[10:200_000]
    assert storage.read_bytes(f"{server}/x", 250_000) == DATA[250_000:]
    assert storage.read_bytes(f"{server}/small") == DATA[:99] == storage.read_bytes(f"{server}/small", most=99)
    assert storage.read_bytes(f"{server}/small", 9, 500) == DATA[9:99]
    with storage.open_read(f"{server}/small") as file:
        assert file.read() == DATA[:99]
    assert storage.read_bytes(f"{server}/endless", 0, 100_000) == DATA[:100_000]


@pytest.mark.parametrize("path", ["x", "endless"])
def test_limits_hold(server: str, path: str) -> None:
    for most in (100, 2**16, 300_000):
        with pytest.raises(StorageError, match="at most"):
            storage.read_bytes(f"{server}/{path}", most=most)
    with pytest.raises(StorageError, match="does not say how large it is"), storage.open_read(f"{server}/{path}"):
        pass


def test_what_never_ends_is_an_error(server: str) -> None:
    with pytest.raises(StorageError, match=r"at most 2,097,152 are read"):
        storage.read_bytes(f"{server}/endless")
    with pytest.raises(StorageError, match="at most"):
        storage.read_text(f"{server}/endless", most=10_000)
