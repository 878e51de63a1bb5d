"""A server of the page's files and of its contract, with models of every form and pictures that need no network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

PAGE = Path(__file__).parents[2] / "ldm_plugin_serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
COLOURS = ["red", "orange", "gold", "green", "teal", "blue", "purple"]
CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in ("circle", "square")]


def settings(**more: Any) -> dict[str, Any]:
    return {
        "sampler": {"default": "ddim", "choices": ["ddim", "euler", "heun"]},
        "grid": {"default": "trailing", "choices": ["trailing", "uniform"]},
        "steps": {"default": 4, "min": 1, "max": 250},
        "seed": {"default": None, "min": 0, "max": (1 << 53) - 1},
        "images": {"default": 2, "min": 1, "max": 16},
        "size": {"default": [32, 32], "multiple": 4, "max_pixels": 4096},
        **more,
    }


def entry(key: str, form: str, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"key": key, "form": form, "required": required, "help": "", **more}


def model(name: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "name": name, "ready": True, "task": "a test", "size": [32, 32], "inputs": list(inputs),
            "settings": settings(**more), "presets": []}  # fmt: skip


MODELS = [
    model(
        "words", entry("caption", "text", example="a red circle"), entry("init_image", "image", False, size=[32, 32]),
        entry("mask", "mask", False, of="init_image"),
        sampler={"default": "ddim", "choices": ["ddim", "euler"], "filling": ["repaint"]},
        guidance={"default": 3.0, "min": 0.0, "max": 50.0}, negative={"default": None},
        strength={"default": 0.6, "min": 0.01, "max": 1.0},
    ),
    model("layout", entry("boxes", "boxes", classes=CLASSES, max=3)),
    model("maps", entry("segmentation", "label_map", classes=CLASSES[:5])),
    model("hole", entry("image", "image", size=[32, 32]), entry("mask", "mask", of="image")),
    model("kinds", entry("class_label", "class", classes=["shirt", "shoe", "bag"])),
    model("words2", entry("caption", "text"), guidance={"default": 1.0, "min": 0.0, "max": 9.0}),
    model("odd", entry("brightness", "json", example=0.5)),
    {"id": "young", "name": "young", "ready": False, "inputs": [], "settings": {}},
]  # fmt: skip
MODELS[0]["presets"] = [{"name": "fast", "about": "4 steps"}]


def picture(seed: int, shade: float = 1.0) -> bytes:
    """A PNG of 32 pixels that differs by its seed."""
    image = Image.new("RGB", (32, 32), "#ddd8cc")
    x, y = seed * 7 % 14, seed * 11 % 14
    colour = COLOURS[seed % len(COLOURS)]
    ImageDraw.Draw(image).ellipse((x, y, x + 17, y + 17), fill=colour)
    noise = Image.effect_noise((32, 32), 90).convert("RGB")
    chunks = PngInfo()
    chunks.add_text("seed", str(seed))
    buffer = io.BytesIO()
    Image.blend(noise, image, shade).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Refused(Exception):
    """An answer that says no."""

    def __init__(self, status: int, message: str, where: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status, self.said = status, {"error": {"message": message, "where": where, **more}}


class PageServer(ThreadingHTTPServer):
    """Serves until closed; `requests` are the bodies sent to sample, `paths` all paths asked for."""

    daemon_threads = True

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pause, self.token = pause, ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.votes: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Check as much of a request as the tests need wrong, and make a job of it."""
        said = body["settings"]
        if said.get("steps", 4) == 13:
            raise Refused(422, "13 brings no luck", "settings.steps", fix="give 12")
        if body["inputs"].get("caption") == "unknown words":
            raise Refused(422, "no word of it is known", "inputs.caption")
        job = {"id": hashlib.sha256(repr((len(self.jobs), body)).encode()).hexdigest()[:12], "state": "queued"}
        self.jobs[job["id"]] = job | {"body": body}
        self.requests.append(body)
        return self.jobs[job["id"]]


def document(job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job."""
    said = job["body"]["settings"]
    seeds = [said["seed"] + i for i in range(said["images"])]
    return {
        "id": job["id"], "images": [{"png": text(picture(seed)), "seed": seed} for seed in seeds], "seconds": 0.4,
        "settings": {"sampler": "ddim", "grid": "trailing", "steps": 4, "size": [32, 32], "negative": None} | said,
    }  # fmt: skip


def curves() -> dict[str, Any]:
    points = [[step, 2.0 / (1 + step / 40) + 0.1 * (step % 3)] for step in range(0, 400, 10)]
    held = [[step, 2.2 / (1 + step / 40)] for step in range(0, 400, 80)]
    panel = {"name": "loss", "log": False, "lines": [{"label": "training", "points": points},
                                                     {"label": "held out", "points": held}]}  # fmt: skip
    rate = {"name": "learning rate", "log": False, "lines": [{"label": "lr", "points": [[0, 0.0], [390, 1e-3]]}]}
    return {"training": True, "state": "training", "ready": False, "time": 9.0, "steps": {"denoiser": 1000},
            "stages": [{"stage": "denoiser", "step": 390, "panels": [panel, rate]}],
            "previews": [{"n": 0, "step": 100}, {"n": 1, "step": 300}]}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("content-security-policy", POLICY)
        self.send_header("cache-control", "max-age=600" if kind.startswith("text/") else "no-store")
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self, method: str) -> None:
        url = urlsplit(self.path)
        self.server.paths.append(url.path)
        try:
            wanted = f"Bearer {self.server.token}" if self.server.token and url.path.startswith("/v1/") else None
            if wanted and self.headers.get("authorization") != wanted:
                raise Refused(401, "a token is needed", "Authorization")
            said = self.route(method, url.path.strip("/").split("/"))
        except Refused as refused:
            self.answer(refused.status, json.dumps(refused.said).encode())
        else:
            if said is not None:
                self.answer(202 if url.query else 200, json.dumps(said).encode())

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def do_DELETE(self) -> None:
        self.handle_one("DELETE")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def route(self, method: str, parts: list[str]) -> Any:
        if parts[0] in ("", "compare", "page"):
            return self.file("/".join(parts[1:]) or {"": "index.html"}.get(parts[0], "compare.html"))
        match [method, *parts[1:]]:
            case ["GET", "models"]:
                return {"models": MODELS, "limits": {"images": 16, "steps": 250}}
            case ["POST", "sample"]:
                job = self.server.submit(json.loads(self.body()))
                return {"id": job["id"], "position": 1} if "wait=false" in self.path else document(job)
            case [_, "compare", *rest]:
                return self.compare(method, rest)
            case ["POST", "read"]:
                return self.read(self.body())
            case ["GET", "jobs", name, "events"]:
                return self.events(self.server.jobs[name])
            case ["DELETE", "jobs", name]:
                self.server.jobs[name]["state"] = "cancelled"
                return {"id": name, "state": "cancelled"}
            case ["GET", "runs", _, "curves"]:
                return curves()
            case ["GET", "runs", _, "previews", number]:
                return self.answer(200, picture(int(number)), "image/png")
        raise Refused(404, "there is no such page", "path")

    def compare(self, method: str, rest: list[str]) -> Any:
        match [method, *rest]:
            case ["POST"]:
                return {"id": "c", "count": min(3, json.loads(self.body())["pairs"]), "shared": True}
            case ["GET", "c", "pairs", number]:
                sides = {side: text(picture(int(number) + i)) for i, side in enumerate(("left", "right"))}
                return {"pair": int(number), "prompt": f"prompt {number}", **sides}
            case ["POST", "c", "votes"]:
                self.server.votes.append(json.loads(self.body())["choice"])
                return {"id": "c"}
            case ["GET", "c", "votes.csv"]:
                rows = [f'{i},"a, ""b""",x,y,left,{"words2" if i == 1 else "words"},1' for i in range(3)]
                table = "\n".join(["pair,prompt,left,right,choice,preferred,seconds", *rows, ""])
                return self.answer(200, table.encode(), "text/csv")
        raise Refused(404, "there is no such page", "path")

    def file(self, name: str) -> None:
        path = PAGE / name
        if not path.is_file():
            raise Refused(404, "there is no such page", "path")
        self.answer(200, path.read_bytes(), TYPES[path.suffix])

    def read(self, data: bytes) -> dict[str, Any]:
        found = Image.open(io.BytesIO(data)).info
        if "seed" not in found:
            raise Refused(422, "the picture holds no settings", "body")
        return {"model": "words", "inputs": {"caption": "from a file"}, "settings": {"seed": int(found["seed"])}}

    def events(self, job: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        said = job["body"]["settings"]
        steps = said.get("steps", 4)
        self.tell("position", {"position": 0})
        for step in range(1, steps + 1):
            if job["state"] == "cancelled":
                return self.tell("cancelled", {"id": job["id"]})
            previews = [
                {"image": i, "png": text(picture(said["seed"] + i, step / steps))} for i in range(said["images"])
            ]
            self.tell("progress", {"step": step, "steps": steps, "previews": previews, "preview": None})
            time.sleep(self.server.pause)
        self.tell("done", document(job))

    def tell(self, name: str, data: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the page was left
            self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()
