"""What hostile clients get: one clear refusal each, from a server that goes on."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from header_files import PLAIN, write_run
from ldm_plugin_serve.limits import Limits
from PIL import Image
from serve_process import Running, png, running

LIMITS = Limits(body=1 << 20, head_time=0.4, body_time=0.6, given_pixels=1 << 20, queue=4)
TEXT = {"model": "words", "inputs": {"caption": "a red circle"}, "settings": {"images": 1, "steps": 2, "seed": 0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "words"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Running]:
    with running([run], LIMITS) as made:
        yield made
        assert len(made.sample(TEXT)["images"]) == 1  # after all of them, it still answers


def bomb() -> str:
    """A PNG of a few hundred bytes whose header says 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def with_(**changes: Any) -> dict[str, Any]:
    """The request with other settings or keys."""
    body = json.loads(json.dumps(TEXT))
    for key, value in changes.items():
        where = body["settings"] if key in ("images", "steps", "seed", "size", "guidance", "sampler", "strength",
                                            "negative", "grid", "adapters", "sample") else body  # fmt: skip
        where[key] = value
    return body  # type: ignore[no-any-return]


def start(picture: Any) -> dict[str, Any]:
    return with_(inputs={"caption": "a", "init_image": picture})


def masked(mask: Any) -> dict[str, Any]:
    return with_(inputs={"caption": "a", "init_image": png(), "mask": mask})


def text_chunks() -> str:
    """A PNG whose text unpacks to 40 MB."""
    data = b"k\0\0" + zlib.compress(bytes(40_000_000), 9)
    body = io.BytesIO()
    Image.new("RGB", (2, 2)).save(body, "PNG")
    plain = body.getvalue()
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return base64.b64encode(plain[:33] + chunk + plain[33:]).decode()


HOSTILE: list[tuple[str, Any, int, str]] = [
    ("no object", [1], 422, "body"),
    ("unknown key", with_(weights="/etc/passwd"), 422, "weights"),
    ("unknown model", with_(model="../../etc"), 404, "model"),
    ("model of another type", with_(model={"a": 1}), 404, "model"),
    ("unknown setting", with_(adapters={"x": {"weights": "/etc/passwd"}}), 422, "settings.adapters"),
    ("setting of the core", with_(sample={"decoder": "/etc/passwd"}), 422, "settings.sample"),
    ("unknown sampler", with_(sampler="../x"), 422, "settings.sampler"),
    ("sampler of another type", with_(sampler={"use": "ddim"}), 422, "settings.sampler"),
    ("too many images", with_(images=1000), 422, "settings.images"),
    ("no images", with_(images=0), 422, "settings.images"),
    ("half an image", with_(images=0.5), 422, "settings.images"),
    ("true images", with_(images=True), 422, "settings.images"),
    ("too many steps", with_(steps=10**9), 422, "settings.steps"),
    ("negative seed", with_(seed=-1), 422, "settings.seed"),
    ("huge seed", with_(seed=10**30), 422, "settings.seed"),
    ("a seed of text", with_(seed="1"), 422, "settings.seed"),
    ("too many seeds", with_(seed=[1] * 500), 422, "settings.seed"),
    ("huge size", with_(size=[60000, 60000]), 422, "settings.size"),
    ("odd size", with_(size=[17, 16]), 422, "settings.size"),
    ("a size of text", with_(size="big"), 422, "settings.size"),
    ("huge guidance", with_(guidance=1e300), 422, "settings.guidance"),
    ("strength of nothing", with_(strength=0.5), 422, "settings.strength"),
    ("a caption that is a number", with_(inputs={"caption": 3}), 422, "inputs.caption"),
    ("a long caption", with_(inputs={"caption": "a" * 5000}), 422, "inputs.caption"),
    ("no caption", with_(inputs={}), 422, "inputs"),
    ("unknown input", with_(inputs={"caption": "a", "url": "http://x"}), 422, "inputs.url"),
    ("inputs that are a list", with_(inputs=[1]), 422, "inputs"),
    ("a negative that is a list", with_(negative=["a"]), 422, "settings.negative"),
    ("unknown preset", with_(preset="fast"), 422, "preset"),
    ("unknown format", with_(format="exe"), 422, "format"),
    ("a picture that is a path", start("/etc/passwd"), 422, "inputs.init_image"),
    ("a picture that is a URL", start("file:///etc/passwd"), 422, "inputs.init_image"),
    ("a picture that is text", start(base64.b64encode(b"hello").decode()), 422, "inputs.init_image"),
    ("a picture that is a number", start(5), 422, "inputs.init_image"),
    ("a picture that is cut off", start(png(64, 64)[:80]), 422, "inputs.init_image"),
    ("a bomb", start(bomb()), 422, "inputs.init_image"),
    ("a large picture", start(png(1100, 1100)), 413, "inputs.init_image"),
    ("an SVG", start(base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()), 422, "inputs."),
    ("an EPS", start(base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode()), 422, "inputs.init_image"),
    ("a mask without a hole", masked(png(level=0)), 422, "inputs.mask"),
    ("a mask of another size", masked(png(4, 4)), 422, "inputs.mask"),
    ("a mask of NaN", masked([[0, 0, float("nan"), 1]]), 422, "inputs.mask"),
]  # fmt: skip
RAW: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("no JSON", b"{", 400),
    ("NaN", b'{"settings": {"guidance": NaN}}', 422),
    ("infinity", b'{"settings": {"guidance": 1e999}}', 422),
    ("deep", b"[" * 100_000, 400),
    ("deep and closed", b"[" * 5000 + b"]" * 5000, 400),
    ("a key twice", b'{"model": "words", "model": "words"}', 400),
    ("a long number", b'{"settings": {"seed": ' + b"9" * 5000 + b"}}", 400),
    ("no UTF-8", b'{"model": "\xff"}', 400),
    ("half a character", b'{"inputs": {"caption": "\\ud800"}}', 400),
]


NOWHERE = (
    "/page/../app.py", "/page/%2e%2e/web/app.py", "/page/..%2f..%2fplugin.py", "/page//etc/passwd",
    "/page/index.html%00.png", "/page/.hidden", "/v1/jobs/nothing", "/v1/runs/..%2f..%2fetc/curves",
    "/v1/runs/words/previews/99", "/v1/runs/words/previews/..%2f1", "/v1/compare/x", "/nothing",
)  # fmt: skip


def require_refusal(answer: Any, status: int, run: Path) -> dict[str, Any]:
    """One error with its place, without a path of this machine or a trace of calls."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"] and set(error) <= {"message", "where", "allowed", "fix"}
    for word in (str(run), str(run.parent), "Traceback", "site-packages"):
        assert word not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    return error


@pytest.mark.parametrize(("name", "body", "status", "where"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_a_faulty_request_is_refused(served: Running, run: Path, name: str, body: Any, status: int, where: str) -> None:
    answer = served.client.post(
        "/v1/sample", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    error = require_refusal(answer, status, run)
    assert error["where"].startswith(where)


@pytest.mark.parametrize(("name", "data", "status"), RAW, ids=[row[0] for row in RAW])
def test_bytes_that_are_no_request(served: Running, run: Path, name: str, data: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    require_refusal(served.client.post("/v1/sample", content=data, headers=headers), status, run)


def test_other_bodies_and_paths(served: Running, run: Path) -> None:
    client = served.client
    require_refusal(client.post("/v1/sample", content=b"<a/>", headers={"content-type": "text/xml"}), 415, run)
    require_refusal(client.post("/v1/sample", content=bytes(2 << 20)), 413, run)
    require_refusal(client.post("/v1/sample", content=iter([bytes(1 << 19)] * 5),
                                headers={"content-type": "application/json"}), 413, run)  # fmt: skip
    many = {f"f{i}": b"x" for i in range(200)}
    require_refusal(client.post("/v1/sample", files=many), 400, run)
    require_refusal(client.post("/v1/sample", json=TEXT, params={"wait": "perhaps"}), 400, run)
    for path in NOWHERE:
        require_refusal(client.get(path), 404, run)
    require_refusal(client.put("/v1/sample"), 405, run)
    require_refusal(client.post("/v1/read", content=b"GIF89a", headers={"content-type": "image/png"}), 422, run)
    require_refusal(client.post("/v1/read", json={"picture": text_chunks()}), 422, run)
    require_refusal(client.post("/v1/read", json={"picture": png()}), 422, run)
    require_refusal(client.post("/v1/compare", json={"a": "words", "b": "words"}), 422, run)


def test_other_sites_and_names_are_refused(served: Running, run: Path) -> None:
    client = served.client
    require_refusal(client.get("/v1/models", headers={"host": "evil.example"}), 421, run)
    for origin in ("http://evil.example", "null", f"http://localhost:{served.port + 1}"):
        require_refusal(client.post("/v1/sample", json=TEXT, headers={"origin": origin}), 403, run)
    require_refusal(
        client.get("/v1/models", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}), 403, run
    )
    own = {"origin": served.url.rstrip("/")}
    assert client.get("/v1/models", headers=own).status_code == 200
    assert client.get("/v1/models", headers={"host": f"localhost:{served.port}"}).status_code == 200
    assert not [key for key in client.get("/v1/models", headers=own).headers if key.startswith("access-control")]


def test_a_token_is_asked_for(run: Path) -> None:
    with running([run], LIMITS, token="a-secret-of-some-length") as made:
        for path in ("/v1/models", "/metrics", "/v1/jobs/x"):
            answer = made.client.get(path)
            require_refusal(answer, 401, run)
            assert answer.headers["www-authenticate"] == "Bearer"
            require_refusal(made.client.get(path, headers={"authorization": "Bearer wrong"}), 401, run)
        for path in ("/", "/healthz", "/docs", "/openapi.json", "/page/index.html"):
            assert made.client.get(path).status_code == 200
        headers = {"authorization": "Bearer a-secret-of-some-length"}
        assert made.client.get("/v1/models", headers=headers).status_code == 200


def test_an_answer_waits_for_nothing_but_its_sending(served: Running) -> None:
    """Nagle's delay is off: on a connection that stays, every answer came 40 ms late."""
    assert served.client.get("/healthz").status_code == 200
    links = [each.transport.get_extra_info("socket") for each in served.server.server_state.connections]
    assert links and all(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for link in links)


def _sent(port: int, data: bytes, seconds: float = 3.0) -> tuple[bytes, float]:
    """The answer to raw bytes until the server closes, and the seconds to it."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        link.sendall(data)
        found = b""
        while piece := _received(link):
            found += piece
    return found, time.monotonic() - began


def _received(link: socket.socket) -> bytes:
    try:
        return link.recv(65536)
    except ConnectionResetError:
        return b""


def test_slow_clients_are_let_go(served: Running) -> None:
    """A head that does not end, a body that does not come, a connection without a word."""
    found, seconds = _sent(served.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert not found and seconds < 2
    assert _sent(served.port, b"")[1] < 2
    head = (
        b"POST /v1/sample HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )
    found, seconds = _sent(served.port, head)
    assert b" 408 " in found.split(b"\r\n")[0] and seconds < 3
    found, _ = _sent(served.port, b"\x16\x03\x01 no HTTP at all\r\n\r\n")
    assert b" 400 " in found
    found, _ = _sent(served.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 70_000)
    assert b" 400 " in found or not found


def test_a_full_queue_says_so(served: Running, run: Path) -> None:
    long = with_(images=16, steps=250)
    ids = [served.client.post("/v1/sample?wait=false", json=long).json()["id"] for _ in range(5)]
    answer = served.client.post("/v1/sample?wait=false", json=long)
    if answer.status_code == 202:  # the first one was at work already
        ids.append(answer.json()["id"])
        answer = served.client.post("/v1/sample?wait=false", json=long)
    require_refusal(answer, 429, run)
    assert answer.headers["retry-after"]
    for name in ids:
        served.client.delete(f"/v1/jobs/{name}")


def test_faults_of_the_library_name_their_field(tmp_path: Path) -> None:
    """Those found before a sampling, and those that a conditioner finds in it."""
    write_run(tmp_path / "maps", {**PLAIN, "conditioners": [{"use": "semantic_map", "classes": 3, "dropout": 0.1}]})
    boxes = {
        "use": "bbox_layout",
        "classes": 2,
        "objects": 4,
        "width": 8,
        "heads": 1,
        "head_width": 8,
        "layers": 1,
        "dropout": 0.1,
    }
    write_run(tmp_path / "boxes", {**PLAIN, "conditioners": [boxes]})
    write_run(tmp_path / "words")
    corner = {"class": 0, "box": [0.5, 0.5, 0.9, 0.2]}
    asked: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("maps", {}, {}, "inputs.segmentation"),
        ("maps", {"segmentation": [[0, 9]]}, {}, "inputs.segmentation"),
        ("boxes", {"boxes": [{**corner, "class": 7}]}, {}, "inputs.boxes"),
        ("boxes", {"boxes": [corner]}, {}, "inputs.boxes"),
        ("words", {}, {}, "inputs.caption"),
        ("words", {"caption": "a", "mask": [0, 0, 0.5, 0.5]}, {}, "inputs.mask"),
        ("words", {"caption": "a"}, {"size": [15, 16]}, "settings.size"),
        ("words", {"caption": "a"}, {"guidance": 1.0, "negative": "b"}, "settings.negative"),
    ]
    with running([tmp_path / name for name in ("maps", "boxes", "words")]) as served:
        for model, inputs, settings, where in asked:
            body = {"model": model, "inputs": inputs, "settings": {"images": 1, "steps": 1, **settings}}
            answer = served.client.post("/v1/sample", json=body)
            said = answer.json().get("error", {})
            assert (answer.status_code, said.get("where")) == (422, where), (model, inputs, settings, answer.text)
            assert "--" not in said["message"] and "example 0" not in said["message"]
