"""A server under load: many clients, mixed settings, hostile requests, its end; against the library's own batches.

    python tests/benchmarks/machine/bench_serve.py RUN [--clients 32] [--requests 500] [--hostile 200]

Each picture is compared with that of the same seed, asked for alone. Rates are given by the wall and by processor
time: on a busy machine the latter alone means something. The library's rate is that of the same images, sorted by their
settings, in whole batches.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from typing import Any

import httpx
import numpy as np
from PIL import Image

import ldm_core

BATCH = 8
Request = dict[str, Any]


def requests_of(model: Request, count: int, seed: int) -> list[Request]:
    """`count` requests of two samplers, two numbers of steps, and one to four images, each with its own seed."""
    draw, made = random.Random(seed), []
    keys = {one["key"]: one for one in model["inputs"] if one["required"]}
    for number in range(count):
        inputs: Request = {}
        if "caption" in keys:
            inputs["caption"] = draw.choice(["a red circle", "a blue star", "green tree", "cat", "a yellow moon"])
        if "class_label" in keys:
            inputs["class_label"] = draw.choice(keys["class_label"]["classes"])
        settings = {"sampler": draw.choice(["ddim", "euler"]), "steps": draw.choice([4, 8])}
        made.append(
            {
                "inputs": inputs,
                "settings": {**settings, "seed": 1000 * number, "images": draw.randint(1, 4)},
                "number": number,
            }
        )
    return made


def hostile_of(count: int, seed: int) -> list[tuple[bytes, dict[str, str]]]:
    """Bodies that have to be refused: broken, huge, deep, of wrong types, with bombs and paths."""
    draw, plain = random.Random(seed), {"content-type": "application/json"}
    wrong: list[Any] = [None, -1, 1e308, "x" * 5000, [], {}, True, "../../etc/passwd", [[[[]]]], float("nan"), 10**40]
    bomb = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0").decode()
    made = []
    for number in range(count):
        kind = number % 8
        if kind == 0:
            made.append((bytes(draw.randrange(256) for _ in range(200)), plain))
        elif kind == 1:
            made.append((b'{"inputs": ' * 2000, plain))
        elif kind == 2:
            made.append((b"{" + b'"a": 1, ' * 300_000, plain))
        elif kind == 3:
            made.append((json.dumps({"inputs": {"init_image": bomb}}).encode(), plain))
        elif kind == 4:
            made.append((b"--x\r\n" * 5000, {"content-type": "multipart/form-data; boundary=x"}))
        elif kind == 5:
            key = draw.choice(["model", "inputs", "preset", "format", "weights", "guidance.model"])
            made.append((json.dumps({key: draw.choice(wrong[1:])}).encode(), plain))
        elif kind == 6:
            made.append((bytes(17 << 20), plain))
        else:
            key = draw.choice(["steps", "images", "seed", "size", "guidance", "sampler", "grid", "adapters"])
            made.append((json.dumps({"settings": {key: draw.choice(wrong[1:]), "images": 99}}).encode(), plain))
    return made


class Load:
    """Clients in threads, each with its next request as soon as its last one is answered."""

    def __init__(self, url: str, requests: list[Request]) -> None:
        self.url, self.left, self.lock = url, list(reversed(requests)), threading.Lock()
        self.answers: dict[int, tuple[Request, Request, float]] = {}
        self.failed: list[str] = []

    def run(self, clients: int) -> float:
        """Send all of them; the seconds that it took."""
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - began

    def _client(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=600, trust_env=False, headers={"x-client": str(number)}) as client:
            while True:
                with self.lock:
                    if not self.left:
                        return
                    said = self.left.pop()
                began = time.monotonic()
                answer = client.post("/v1/sample", json={key: said[key] for key in ("inputs", "settings")})
                if answer.status_code == 200:
                    self.answers[said["number"]] = (said, answer.json(), time.monotonic() - began)
                else:
                    self.failed.append(answer.text[:200])


def figure(text: str, name: str) -> float:
    """One number of ``/metrics``."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def pixels(image: Request) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB")).astype(int)


def compare(load: Load, client: httpx.Client, share: float) -> str:
    """The pictures of a share of the answers beside those of the same seed asked for alone: how many differ."""
    worst = images = other = 0
    levels = changed = 0
    for number, (said, answer, _) in load.answers.items():
        if random.Random(number).random() >= share:
            continue
        for image in answer["images"]:
            settings = {**said["settings"], "seed": image["seed"], "images": 1}
            alone = client.post("/v1/sample", json={"inputs": said["inputs"], "settings": settings}).json()
            off = np.abs(pixels(image) - pixels(alone["images"][0]))
            worst, images, other = max(worst, int(off.max())), images + 1, other + bool(off.any())
            levels, changed = levels + off.size, changed + int((off > 0).sum())
    differ = f"{other} differ, in {changed} of {levels} values, by {worst} at most"
    return f"{images} pictures beside those asked for alone: {differ}"


def library(requests: list[Request], pipeline: Any) -> tuple[int, float, float]:
    """Images, seconds and processor seconds of the library on the same images in whole batches of like settings."""
    groups: dict[tuple[str, int], list[tuple[Request, int]]] = defaultdict(list)
    for said in requests:
        settings = said["settings"]
        rows = [(said["inputs"], settings["seed"] + i) for i in range(settings["images"])]
        groups[settings["sampler"], settings["steps"]] += rows
    own = {sampler: pipeline.with_settings({"sampler": sampler}) for sampler, _ in groups}
    images, began, cpu = 0, time.monotonic(), time.process_time()
    for (sampler, steps), rows in groups.items():
        for at in range(0, len(rows), BATCH):
            some = rows[at : at + BATCH]
            inputs = [row for row, _ in some]
            made = own[sampler].sample(
                inputs=inputs, images=len(some), seed=[seed for _, seed in some], steps=steps, batch=len(some)
            )
            images += len(made)
    return images, time.monotonic() - began, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--share", type=float, default=1.0, help="share of the answers to be sampled again alone")
    given = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "ldm_core.cli",
        "serve",
        given.run,
        "--port",
        "0",
        "--quiet",
        "--batch",
        str(BATCH),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    client = httpx.Client(base_url=url, timeout=600, trust_env=False)
    requests = requests_of(client.get("/v1/models").json()["models"][0], given.requests, 1)
    pipeline = ldm_core.load(given.run, device="cpu")
    warm = Load(url, requests_of(client.get("/v1/models").json()["models"][0], 16, 2))
    warm.run(4)
    library(requests[:8], pipeline)
    before, sizes = client.get("/metrics").text, list[float]()
    load = Load(url, requests)
    watch = threading.Thread(target=_watch, args=(client, sizes, load), daemon=True)
    watch.start()
    seconds = load.run(given.clients)
    after = client.get("/metrics").text
    images = sum(len(answer["images"]) for _, answer, _ in load.answers.values())
    took = sorted(wait for _, _, wait in load.answers.values())
    cpu = figure(after, "process_cpu_seconds_total") - figure(before, "process_cpu_seconds_total")
    batches = figure(after, "ldm_serve_batch_count") - figure(before, "ldm_serve_batch_count")
    own, own_seconds, own_cpu = library(requests, pipeline)
    print(f"load of the machine: {' '.join(f'{one:.1f}' for one in os.getloadavg())} on {os.cpu_count()} cores")
    print(f"{len(load.answers)} of {given.requests} requests answered, {len(load.failed)} refused {load.failed[:2]}")
    print(f"p50 {took[len(took) // 2]:.2f} s, p95 {took[int(len(took) * 0.95)]:.2f} s, {given.clients} clients")
    print(f"server:  {images} images, {images / seconds:.2f} a second, {images / cpu:.2f} a second of processor, "
          f"{images / batches:.2f} a batch")  # fmt: skip
    print(f"library: {own} images, {own / own_seconds:.2f} a second, {own / own_cpu:.2f} a second of processor")
    print(f"of the library's rate: {own_cpu / own * images / cpu:.3f} by processor, "
          f"{images / seconds / (own / own_seconds):.3f} by the wall")  # fmt: skip
    third = max(1, len(sizes) // 3)
    print(f"memory: {np.median(sizes[:third]):.1f} MiB in the first third, {np.median(sizes[-third:]):.1f} in the last")
    print(compare(load, client, given.share))
    refused = _refusals(client, given.hostile)
    print(f"{given.hostile} hostile requests: {dict(refused)}; then /healthz {client.get('/healthz').status_code}, "
          f"{figure(client.get('/metrics').text, 'process_resident_memory_bytes') / (1 << 20):.1f} MiB")  # fmt: skip
    _end(process, url)


def _watch(client: httpx.Client, sizes: list[float], load: Load) -> None:
    with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
        while load.left:
            sizes.append(figure(own.get("/metrics").text, "process_resident_memory_bytes") / (1 << 20))
            time.sleep(0.5)


def _refusals(client: httpx.Client, count: int) -> dict[str, int]:
    """The statuses of hostile requests; a connection that breaks counts as one."""
    found: dict[str, int] = defaultdict(int)
    for data, headers in hostile_of(count, 3):
        try:
            answer = client.post("/v1/sample", content=data, headers=headers)
            found[str(answer.status_code)] += 1
        except httpx.TransportError as error:
            found[type(error).__name__] += 1
    return found


def _end(process: subprocess.Popen[str], url: str) -> None:
    """SIGTERM while one long request is at work: it is answered, and the process ends."""
    answers: list[Any] = []

    def ask() -> None:
        body = {"inputs": {}, "settings": {"images": 2, "steps": 20, "seed": 1}}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            first = client.get("/v1/models").json()["models"][0]
            body["inputs"] = requests_of(first, 1, 1)[0]["inputs"]
            answers.append(client.post("/v1/sample", json=body))

    thread = threading.Thread(target=ask)
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        begun = figure(client.get("/metrics").text, "ldm_serve_wait_seconds_count")
        thread.start()
        while figure(client.get("/metrics").text, "ldm_serve_wait_seconds_count") == begun:
            time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(30)
    seconds = time.monotonic() - began
    thread.join()
    print(
        f"SIGTERM: ended with {code} in {seconds:.1f} s; the running request was answered with {answers[0].status_code}"
    )


if __name__ == "__main__":
    main()
