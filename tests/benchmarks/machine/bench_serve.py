"""A server under load: many clients, mixed settings, hostile requests, its end; against the library's own batches.

    python tests/benchmarks/machine/bench_serve.py RUN [--clients 32] [--requests 500] [--rounds 4] [--hostile 200]

Each picture is compared with that of the same seed, asked for alone. Rates are given by the wall and by processor
time: on a busy machine the latter alone means something. The library's rate is that of the same images, sorted by their
settings, in whole batches, without files of them. Server and library take turns, a part of the requests at a time, as a
machine is not equally fast over minutes. The clients share the machine with the server: they are plain connections,
made before the clock starts, and read their answers after it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
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
from collections.abc import Iterable
from typing import Any

import attrs
import httpx
import numpy as np
from PIL import Image

import ldm_core

BATCH = 8
CPU = "process_cpu_seconds_total"
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
        self.url, self.left, self.lock = httpx.URL(url), list(reversed(requests)), threading.Lock()
        self.came: list[tuple[Request, int, bytes, float]] = []
        self.answers: dict[int, tuple[Request, Request, float]] = {}
        self.failed: list[str] = []
        self.cpu = 0.0
        """Processor seconds of the clients."""

    def run(self, clients: int) -> float:
        """Send all of them; the seconds that it took."""
        connections = [http.client.HTTPConnection(self.url.host, self.url.port, timeout=600) for _ in range(clients)]
        for connection in connections:
            connection.connect()
        threads = [threading.Thread(target=self._client, args=row) for row in enumerate(connections)]
        began, cpu = time.monotonic(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, self.cpu = time.monotonic() - began, time.process_time() - cpu
        for connection in connections:
            connection.close()
        for said, status, data, wait in self.came:
            if status == 200:
                self.answers[said["number"]] = (said, json.loads(data), wait)
            else:
                self.failed.append(data.decode()[:200])
        return seconds

    def _client(self, number: int, connection: http.client.HTTPConnection) -> None:
        headers = {"x-client": str(number), "content-type": "application/json"}
        while True:
            with self.lock:
                if not self.left:
                    return
                said = self.left.pop()
            began = time.monotonic()
            connection.request("POST", "/v1/sample", json.dumps({k: said[k] for k in ("inputs", "settings")}), headers)
            answer = connection.getresponse()
            self.came.append((said, answer.status, answer.read(), time.monotonic() - began))


def figure(text: str, name: str) -> float:
    """One number of ``/metrics``."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def pixels(image: Request) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB")).astype(int)


def compare(answers: Iterable[tuple[Request, Request, float]], client: httpx.Client, share: float) -> str:
    """The pictures of a share of the answers beside those of the same seed asked for alone: how many differ."""
    worst = images = other = 0
    levels = changed = 0
    for said, answer, _ in answers:
        if random.Random(said["number"]).random() >= share:
            continue
        for image in answer["images"]:
            settings = {**said["settings"], "seed": image["seed"], "images": 1}
            alone = client.post("/v1/sample", json={"inputs": said["inputs"], "settings": settings}).json()
            off = np.abs(pixels(image) - pixels(alone["images"][0]))
            worst, images, other = max(worst, int(off.max())), images + 1, other + bool(off.any())
            levels, changed = levels + off.size, changed + int((off > 0).sum())
    differ = f"{other} differ, in {changed} of {levels} values, by {worst} at most"
    return f"{images} pictures beside those asked for alone: {differ}"


Batches = list[tuple[str, int, list[tuple[Request, int]]]]


def batches_of(requests: list[Request]) -> Batches:
    """The images of all requests in whole batches of like settings: sampler, steps, and inputs and seed of each."""
    groups: dict[tuple[str, int], list[tuple[Request, int]]] = defaultdict(list)
    for said in requests:
        settings = said["settings"]
        rows = [(said["inputs"], settings["seed"] + i) for i in range(settings["images"])]
        groups[settings["sampler"], settings["steps"]] += rows
    return [(*key, rows[at : at + BATCH]) for key, rows in groups.items() for at in range(0, len(rows), BATCH)]


def library(batches: Batches, pipeline: Any) -> tuple[int, float, float]:
    """Images, seconds and processor seconds of the library."""
    own = {sampler: pipeline.with_settings({"sampler": sampler}) for sampler, _, _ in batches}
    images, began, cpu = 0, time.monotonic(), time.process_time()
    for sampler, steps, rows in batches:
        inputs, seeds = [row for row, _ in rows], [seed for _, seed in rows]
        made = own[sampler].sample(inputs=inputs, images=len(rows), seed=seeds, steps=steps, batch=len(rows))
        images += len(made)
    return images, time.monotonic() - began, time.process_time() - cpu


@attrs.frozen
class Round:
    """A part of the requests, answered by the server and sampled by the library. Times are in seconds."""

    images: int
    seconds: float
    cpu: float
    clients_cpu: float
    batches: float
    own_images: int
    own_seconds: float
    own_cpu: float
    answers: tuple[tuple[Request, Request, float], ...]
    failed: tuple[str, ...]

    @classmethod
    def of(cls, client: httpx.Client, load: Load, clients: int, sizes: list[float], own: tuple[Batches, Any]) -> Round:
        """Measure one; the server's memory is added to `sizes`. `own`: the library's batches, and its pipeline."""
        before = client.get("/metrics").text
        watch = threading.Thread(target=_watch, args=(client, sizes, load), daemon=True)
        watch.start()
        seconds = load.run(clients)
        watch.join()
        after = client.get("/metrics").text
        cpu, batches = (figure(after, name) - figure(before, name) for name in (CPU, "ldm_serve_batch_count"))
        sampled = library(*own)
        answers = tuple(load.answers.values())
        images = sum(len(answer["images"]) for _, answer, _ in answers)
        return cls(images, seconds, cpu, load.cpu, batches, *sampled, answers, tuple(load.failed))

    @property
    def served(self) -> str:
        """The server's rates."""
        share = f"clients take {self.clients_cpu / self.cpu:.3f} of its processor time"
        return f"{rates(self.images, self.seconds, self.cpu)}, {self.images / self.batches:.2f} a batch; {share}"

    @property
    def sampled(self) -> str:
        """The library's rates."""
        return rates(self.own_images, self.own_seconds, self.own_cpu)

    @property
    def ratios(self) -> str:
        """The server's rates, as parts of the library's."""
        cpu, wall = (
            self.images / ours * theirs / self.own_images
            for ours, theirs in ((self.cpu, self.own_cpu), (self.seconds, self.own_seconds))
        )
        return f"{cpu:.3f} by processor, {wall:.3f} by the wall"


def rates(images: int, seconds: float, cpu: float) -> str:
    return f"{images} images, {images / seconds:.2f} a second, {images / cpu:.2f} a second of processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4, help="turns of server and library")
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
    batches = batches_of(requests)
    library(batches[:: max(1, len(batches) // 4)], pipeline)
    sizes, rounds = list[float](), list[Round]()
    for number in range(given.rounds):
        load, own = Load(url, requests[number :: given.rounds]), batches[number :: given.rounds]
        rounds.append(Round.of(client, load, given.clients, sizes, (own, pipeline)))
        print(f"round {number + 1}: {rounds[-1].ratios}", flush=True)
    columns = zip(*(attrs.astuple(each, recurse=False) for each in rounds), strict=True)
    whole = Round(*(sum(column[1:], column[0]) for column in columns))
    took = sorted(wait for _, _, wait in whole.answers)
    print(f"load of the machine: {' '.join(f'{one:.1f}' for one in os.getloadavg())} on {os.cpu_count()} cores")
    print(f"{len(took)} of {given.requests} requests answered, {len(whole.failed)} refused {whole.failed[:2]}")
    print(f"p50 {took[len(took) // 2]:.2f} s, p95 {took[int(len(took) * 0.95)]:.2f} s, {given.clients} clients")
    print(f"server:  {whole.served}")
    print(f"library: {whole.sampled}")
    print(f"of the library's rate: {whole.ratios}")
    third = max(1, len(sizes) // 3)
    print(f"memory: {np.median(sizes[:third]):.1f} MiB in the first third, {np.median(sizes[-third:]):.1f} in the last")
    print(compare(whole.answers, client, given.share))
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
