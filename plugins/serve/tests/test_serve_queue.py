"""Turns of clients, places in the queue, failures that stay alone, and the server's end."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from header_files import write_run
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.work.batch import Batch
from ldm_plugin_serve.work.job import Job
from ldm_plugin_serve.work.order import Order
from serve_process import Running, events, pixels, running, until

import ldm_core
from ldm_core.sampling.pipeline import Pipeline


def job(address: str, name: str = "", images: int = 1) -> Job:
    asked: Any = SimpleNamespace(seeds=list(range(images)), steps=2)
    return Job(asked, (address, name))


def test_clients_take_turns_by_address_then_by_name() -> None:
    """Many requests, or many names, of one address gain nothing over another address."""
    greedy = [job("a", f"name {i % 3}") for i in range(6)]
    modest = [job("b"), job("b")]
    found = Order().sort([*greedy, *modest])
    assert "".join(one.client[0] for one in found) == "ababaaaa"
    assert [one.client[1] for one in found if one.client[0] == "a"] == ["name 0", "name 1", "name 2"] * 2


def test_a_turn_is_remembered() -> None:
    order, first, second = Order(), job("a"), job("b")
    order.took(first)
    assert order.sort([first, second]) == [second, first]
    first.end("done")
    assert order.sort([first, second]) == [second]


def by_definition(order: Order, jobs: list[Job]) -> list[Job]:
    """The next turn is that of the client whose address, then whose name, had its last turn first."""
    waiting, found, last, turn = list(jobs), list[Job](), dict[Any, int](order._last), order._turn
    while waiting:
        clients = list(dict.fromkeys(one.client for one in waiting))
        client = min(clients, key=lambda one: (last.get(one[0], 0), last.get(one, 0)))
        found.append(next(one for one in waiting if one.client == client))
        waiting.remove(found[-1])
        turn += 1
        last[client[0]] = last[client] = turn
    return found


def test_the_order_is_its_definition() -> None:
    draw, order = random.Random(1), Order()
    for _ in range(200):
        jobs = [job(draw.choice("abc"), draw.choice("xyz"), images=draw.randint(0, 2)) for _ in range(12)]
        assert order.sort(jobs) == by_definition(order, [one for one in jobs if one.left])
        order.took(draw.choice(jobs))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "words"
    write_run(folder)
    return folder


def body(images: int = 1, steps: int = 2, seed: int = 0) -> dict[str, Any]:
    settings = {"images": images, "steps": steps, "seed": seed}
    return {"inputs": {"caption": "a red circle"}, "settings": settings}


def ask(served: Running, said: dict[str, Any], client: str = "") -> str:
    answer = served.client.post("/v1/sample?wait=false", json=said, headers={"x-client": client})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def test_positions_are_told_and_a_newcomer_is_not_last(run: Path) -> None:
    with running([run], Limits(batch=2)) as served:
        first = ask(served, body(images=2, steps=250), "a")
        until(lambda: served.client.get(f"/v1/jobs/{first}").json()["state"] == "running")
        more = [ask(served, body(steps=3 + i), "a") for i in range(3)]
        new = ask(served, body(steps=5), "b")
        places = [served.client.get(f"/v1/jobs/{name}").json()["position"] for name in (*more, new)]
        assert places == [2, 3, 4, 1]
        with served.client.stream("GET", f"/v1/jobs/{more[0]}/events") as answer:
            served.client.delete(f"/v1/jobs/{first}")
            told = list(events(answer))
        assert told[0] == ("position", {"position": places[0]}) and told[-1][0] == "done"


def test_a_failure_stays_with_its_request(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails is sampled again job by job."""
    whole, release = Batch.run, threading.Event()

    def run_batch(self: Batch, shelf: Any) -> Any:
        release.wait(20)
        if any(13 in one.job.asked.seeds for one in self.parts):
            raise RuntimeError(f"no luck at {run}")
        return whole(self, shelf)

    monkeypatch.setattr(Batch, "run", run_batch)
    with running([run], Limits(batch=4)) as served:
        ask(served, body(steps=9))  # holds the sampler while the others come
        names = [ask(served, body(seed=seed)) for seed in (1, 13, 2)]
        release.set()
        until(lambda: all(served.site.engine.jobs[name].ending for name in names))
        jobs = [served.client.get(f"/v1/jobs/{name}").json() for name in names]
    assert [one["state"] for one in jobs] == ["done", "failed", "done"]
    assert str(run) not in json.dumps(jobs) and "its log says more" in jobs[1]["error"]["message"]


def test_a_job_has_its_time(run: Path) -> None:
    with running([run], Limits(job=0.2)) as served:
        answer = served.client.post("/v1/sample", json=body(images=16, steps=250))
        assert answer.status_code == 504 and "too long" in answer.text


def test_the_end_answers_the_running_work_and_refuses_the_rest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = held(monkeypatch)
    with running([run], Limits(batch=1)) as served:
        assert served.client.get("/healthz").json() == {"status": "ok"}
        answers: dict[str, Any] = {}

        def wait(name: str, said: dict[str, Any]) -> None:
            answers[name] = served.client.post("/v1/sample", json=said)

        threads = [threading.Thread(target=wait, args=("running", body(steps=3)))]
        threads[0].start()
        jobs = served.site.engine.jobs
        assert begun.wait(60)
        threads.append(threading.Thread(target=wait, args=("waiting", body(steps=31))))
        threads[1].start()
        until(lambda: len(jobs) == 2)
        began = time.monotonic()
        served.server.end()
        go_on.set()
        for thread in threads:
            thread.join(20)
        served.thread.join(20)
        assert not served.thread.is_alive() and time.monotonic() - began < 10
    assert answers["running"].status_code == 200 and len(answers["running"].json()["images"]) == 1
    assert answers["waiting"].status_code == 503 and "about to end" in answers["waiting"].text


def test_images_sampled_alone_are_those_of_the_library_bit_for_bit(run: Path) -> None:
    """With ``--batch 1``, also beside requests of equal settings that would share a batch."""
    with running([run], Limits(batch=1)) as served:
        ids = [ask(served, body(images=3, steps=3, seed=seed)) for seed in (7, 50)]
        until(lambda: all(served.client.get(f"/v1/jobs/{each}").json()["state"] == "done" for each in ids))
        found = [served.client.get(f"/v1/jobs/{each}").json()["result"]["images"] for each in ids]
    pipeline = ldm_core.load(run, device="cpu")
    for seed, images in zip((7, 50), found, strict=True):
        alone = pipeline.sample("a red circle", images=3, steps=3, seed=seed, batch=1)
        for one, image in zip(alone, images, strict=True):
            assert (pixels(image) == one.image.transpose(1, 2, 0)).all()


def held(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The sampler waits: the first event says that it has begun, and the second lets it go on."""
    begun, go_on, whole = threading.Event(), threading.Event(), Pipeline.sample

    def sample(self: Pipeline, *args: Any, **given: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return whole(self, *args, **given)

    monkeypatch.setattr(Pipeline, "sample", sample)
    return begun, go_on


def test_a_picture_is_the_same_bit_for_bit_alone_and_beside_others(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image asked for by itself, and in a batch of eight of other captions, by the server's own filling."""
    begun, go_on = held(monkeypatch)
    with running([run]) as served:
        ask(served, body(images=4, steps=3))  # holds the sampler while the others come
        assert begun.wait(60)
        ids = [ask(served, {**body(steps=3, seed=seed), "inputs": {"caption": f"{seed}"}}) for seed in range(1, 9)]
        go_on.set()
        until(lambda: all(served.client.get(f"/v1/jobs/{each}").json()["state"] == "done" for each in ids))
        beside = [served.client.get(f"/v1/jobs/{each}").json()["result"]["images"][0]["png"] for each in ids]
        batch = served.client.get("/metrics").text
        assert 'ldm_serve_batch_bucket{le="8.0"} 2.0' in batch and 'ldm_serve_batch_bucket{le="4.0"} 1.0' in batch
        for seed, png in zip(range(1, 9), beside, strict=True):
            alone = served.sample({**body(steps=3, seed=seed), "inputs": {"caption": f"{seed}"}})
            assert alone["images"][0]["png"] == png


@pytest.mark.parametrize(("guidance", "batch", "sampled"), [(3.0, 8, 2), (1.0, 8, 4), (1.0, 3, 3), (1.0, 1, 1)])
def test_small_batches_are_filled_to_four_rows(
    run: Path, monkeypatch: pytest.MonkeyPatch, guidance: float, batch: int, sampled: int
) -> None:
    """Guidance makes two rows of an image; a batch is never larger than allowed."""
    sizes, whole = [], Pipeline.sample

    def sample(self: Pipeline, *args: Any, **given: Any) -> Any:
        sizes.append(given["images"])
        return whole(self, *args, **given)

    monkeypatch.setattr(Pipeline, "sample", sample)
    with running([run], Limits(batch=batch)) as served:
        said = body()
        said["settings"]["guidance"] = guidance
        answer = served.sample(said)
    assert sizes == [sampled] and len(answer["images"]) == 1


def test_figures_are_told(run: Path) -> None:
    with running([run]) as served:
        served.sample({"inputs": {"caption": "a"}, "settings": {"images": 2, "steps": 2}})
        text = served.client.get("/metrics").text
        assert 'ldm_serve_images_total{model="words"} 2.0' in text and "process_resident_memory_bytes" in text
        assert 'ldm_serve_requests_total{route="/v1/sample",status="200"} 1.0' in text
