"""Sampling over HTTP: the pictures are the library's, requests stay apart, jobs are followed and cancelled."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from header_files import PLAIN, write_run
from ldm_plugin_serve.limits import Limits
from serve_process import Running, events, pixels, png, running, until

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.data.images import png_bytes
from ldm_core.weights import presets

CLASSES: dict[str, Any] = {
    **PLAIN,
    "conditioners": [{"use": "class_label", "classes": 4, "width": 8, "dropout": 0.1}],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "words")
    write_run(folder / "classes", CLASSES)
    return [folder / "words", folder / "classes"]


@pytest.fixture(scope="module")
def served(runs: list[Path]) -> Iterator[Running]:
    with running(runs, Limits(batch=4, queue=50, unseen=1.0, preview_pause=0.0)) as made:
        yield made


def test_models_say_what_they_read(served: Running) -> None:
    found = served.client.get("/v1/models").json()
    words, classes = found["models"]
    assert (words["id"], words["task"], words["size"], words["ready"]) == ("words", "text to image", [16, 16], True)
    assert [(one["key"], one["form"], one["required"]) for one in words["inputs"]] == [
        ("caption", "text", True), ("init_image", "image", False), ("mask", "mask", False),
    ]  # fmt: skip
    assert classes["inputs"][0]["classes"] == ["0", "1", "2", "3"]
    assert words["settings"]["sampler"]["choices"][0] == "ddim" and words["settings"]["negative"]
    for sampler in (words["settings"]["sampler"], classes["settings"]["sampler"]):
        assert not {"lcm", "repaint"} & set(sampler["choices"]) and sampler["filling"] == ["repaint"]
    assert "negative" not in classes["settings"] and found["limits"]["images"] == 16


def test_the_pictures_are_the_librarys(served: Running, runs: list[Path]) -> None:
    body = {
        "model": "words", "inputs": {"caption": "a red circle"},
        "settings": {"seed": 5, "images": 3, "steps": 3, "guidance": 3.0, "negative": "blue", "sampler": "euler"},
    }  # fmt: skip
    answer = served.sample(body)
    pipeline = ldm_core.load(runs[0], device="cpu").with_settings({"sampler": "euler"})
    alone = pipeline.sample("a red circle", images=3, seed=5, steps=3, guidance=3.0, negative="blue")
    for one, image in zip(alone, answer["images"], strict=True):
        assert image["seed"] == one.seed
        assert np.array_equal(pixels(image), one.image.transpose(1, 2, 0))
    assert answer["settings"] | {"seed": 5, "images": 3, "sampler": "euler", "guidance": 3.0} == answer["settings"]
    assert "words" in json.loads(_metadata(answer["images"][0])["request"])["model"]


def test_requests_of_many_clients_stay_apart(served: Running, runs: list[Path]) -> None:
    """They share batches, and each picture equals the one made alone, to a level of 256."""
    pipelines = {run.name: ldm_core.load(run, device="cpu") for run in runs}
    said: list[dict[str, Any]] = [
        {"model": "words", "inputs": {"caption": f"a {'red' if i % 2 else 'blue'} circle"},
         "settings": {"seed": 100 * i, "images": 1 + i % 3, "steps": 2 + i % 2}}
        if i % 4 else
        {"model": "classes", "inputs": {"class_label": i % 3}, "settings": {"seed": i, "images": 2, "steps": 2}}
        for i in range(12)
    ]  # fmt: skip
    found: dict[int, Any] = {}

    def ask(i: int) -> None:
        found[i] = served.sample(said[i], headers={"x-client": f"client {i % 8}"})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(said))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, body in enumerate(said):
        settings = body["settings"]
        alone = pipelines[body["model"]].sample(
            inputs=body["inputs"], seed=settings["seed"], images=settings["images"], steps=settings["steps"], batch=1
        )
        assert [image["seed"] for image in found[i]["images"]] == [one.seed for one in alone]
        for one, image in zip(alone, found[i]["images"], strict=True):
            assert np.abs(pixels(image).astype(int) - one.image.transpose(1, 2, 0)).max() <= 1


def test_a_form_with_files_a_start_and_another_size(served: Running, runs: list[Path]) -> None:
    start = base64.b64decode(png(16, 24))
    request = {"model": "words", "inputs": {"caption": "a red circle"}, "format": "png",
               "settings": {"images": 1, "steps": 4, "seed": 1, "strength": 0.5, "size": [16, 24]}}  # fmt: skip
    answer = served.client.post(
        "/v1/sample", data={"request": json.dumps(request)}, files={"inputs.init_image": ("a.png", start, "image/png")}
    )
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    picture = np.full((3, 16, 24), 200, np.uint8)
    pipeline = ldm_core.load(runs[0], device="cpu").at_size((16, 24))
    (alone,) = pipeline.sample(
        "a red circle", steps=4, seed=1, images=1, start=ldm_core.Start.image(picture, strength=0.5)
    )
    shown = pixels({"png": base64.b64encode(answer.content).decode()})
    assert np.array_equal(shown, alone.image.transpose(1, 2, 0))


def test_a_job_is_followed_to_its_result(served: Running) -> None:
    body = {"model": "words", "inputs": {"caption": "a red circle"}, "settings": {"images": 2, "steps": 30, "seed": 9}}
    ticket = served.client.post("/v1/sample?wait=false", json=body)
    assert ticket.status_code == 202 and ticket.headers["location"].endswith(ticket.json()["id"])
    with served.client.stream("GET", f"/v1/jobs/{ticket.json()['id']}/events") as answer:
        told = list(events(answer))
    assert told[-1][0] == "done" and [image["seed"] for image in told[-1][1]["images"]] == [9, 10]
    previews = [data for name, data in told if name == "progress" and data["preview"]]
    assert previews and {one["index"] for one in previews[-1]["previews"]} == {0, 1}
    assert previews[-1]["steps"] == 30 and pixels({"png": previews[-1]["preview"]}).shape == (16, 16, 3)
    job = served.client.get(f"/v1/jobs/{ticket.json()['id']}").json()
    assert job["state"] == "done" and job["result"] == told[-1][1]


def test_jobs_are_cancelled_by_word_by_leaving_and_by_silence(served: Running) -> None:
    long = {"model": "words", "inputs": {"caption": "a red circle"}, "settings": {"images": 16, "steps": 250}}
    jobs = served.site.engine.jobs
    first = served.client.post("/v1/sample?wait=false", json=long).json()["id"]
    second = served.client.post("/v1/sample?wait=false", json=long).json()
    assert second["position"] >= 1
    assert served.client.delete(f"/v1/jobs/{first}").json()["state"] == "cancelled"
    before = set(jobs)
    with httpx.Client(base_url=served.url, timeout=0.5, trust_env=False) as short, pytest.raises(httpx.ReadTimeout):
        short.post("/v1/sample", json=long)
    until(lambda: all(jobs[name].ending for name in jobs.keys() - before))
    until(lambda: jobs[second["id"]].state == "cancelled")  # nobody asked for it within a second
    assert served.client.get(f"/v1/jobs/{first}").json()["state"] == "cancelled"
    quick = {**long, "settings": {"images": 1, "steps": 2}}
    assert len(served.sample(quick)["images"]) == 1


def test_a_picture_brings_its_request_back(served: Running, runs: list[Path]) -> None:
    body = {"model": "words", "inputs": {"caption": "a red circle", "init_image": png(16, 16)},
            "settings": {"images": 2, "steps": 4, "seed": 3, "strength": 0.5}}  # fmt: skip
    answer = served.sample(body)
    second = base64.b64decode(answer["images"][1]["png"])
    read = served.client.post("/v1/read", content=second, headers={"content-type": "image/png"}).json()
    assert read["model"] == "words" and read["inputs"] == body["inputs"]
    assert read["settings"] | {"seed": 4, "images": 1, "steps": 4, "strength": 0.5} == read["settings"]
    again = served.sample({key: read[key] for key in ("model", "inputs", "settings")})
    assert np.abs(pixels(again["images"][0]).astype(int) - pixels(answer["images"][1])).max() <= 1
    (own,) = ldm_core.load(runs[1], device="cpu").sample(
        inputs={"class_label": 2}, images=1, steps=3, guidance=1.5, seed=8
    )
    own.save(str(runs[0].parent / "own.png"))
    read = served.client.post("/v1/read", files={"picture": (runs[0].parent / "own.png").read_bytes()}).json()
    assert read["model"] == "classes" and read["inputs"] == {"class_label": 2}
    assert read["settings"] | {"seed": 8, "steps": 3, "guidance": 1.5, "size": [16, 16]} == read["settings"]


def test_a_hole_is_filled_and_the_rest_is_kept(served: Running, runs: list[Path]) -> None:
    """By the guidance `blend`, from noise."""
    inputs = {"caption": "a red circle", "init_image": png(16, 16), "mask": [[0, 0, 0.5, 1]]}
    settings: dict[str, Any] = {"images": 1, "steps": 3, "seed": 3}
    body = {"model": "words", "inputs": inputs, "settings": settings}
    answer = served.sample(body)
    picture, mask = np.full((3, 16, 16), 200, np.uint8), np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    pipeline = ldm_core.load(runs[0], device="cpu").with_settings({"guides": {"blend": {}}})
    given = {"caption": "a red circle", "image": picture, "mask": mask}
    (alone,) = pipeline.sample(inputs=given, images=1, steps=3, seed=3)
    assert np.array_equal(pixels(answer["images"][0]), alone.image.transpose(1, 2, 0))
    settings["sampler"] = "repaint"  # fits holes, and nothing else
    assert served.sample(body)["settings"]["sampler"] == "repaint"
    refused = served.client.post("/v1/sample", json={**body, "inputs": {"caption": "a red circle"}})
    assert refused.status_code == 422 and refused.json()["error"]["fix"] == "give inputs.init_image and inputs.mask"


def test_models_make_room_for_each_other(runs: list[Path]) -> None:
    with running(runs, Limits(memory=1)) as made:  # one is loaded however large
        for name, inputs in (("words", {"caption": "a"}), ("classes", {"class_label": 1}), ("words", {"caption": "a"})):
            made.sample({"model": name, "inputs": inputs, "settings": {"images": 1, "steps": 2}})
            loaded = [one["id"] for one in made.client.get("/v1/models").json()["models"] if one["loaded"]]
            assert loaded == [name]


def test_a_preset_says_and_sets_its_settings(runs: list[Path]) -> None:
    shutil.copytree(runs[0], tuned := runs[0].parent / "tuned", dirs_exist_ok=True)
    settings = {"sampler": "euler", "guidance": {"use": "cfg", "scale": 1.5}, "sample": {"steps": 3}}
    presets.write(str(tuned / "model.safetensors"), {"fast": presets.Preset(settings=settings)}, Catalog.discover())
    with running([tuned]) as made:
        (model,) = made.client.get("/v1/models").json()["models"]
        (preset,) = model["presets"]
        assert preset["settings"] == {"sampler": "euler", "grid": "trailing", "steps": 3, "guidance": 1.5}
        said = {"inputs": {"caption": "a"}, "settings": {"images": 1, "seed": 1}, "preset": "fast"}
        answer = made.sample(said)
        assert answer["settings"] | preset["settings"] == answer["settings"] and answer["preset"] == "fast"
        (alone,) = ldm_core.load(tuned, device="cpu").sample("a", images=1, seed=1, preset="fast")
        assert np.array_equal(pixels(answer["images"][0]), alone.image.transpose(1, 2, 0))
        own = made.sample({**said, "settings": {"images": 1, "seed": 1, "sampler": "ddim"}})
        assert own["settings"]["sampler"] == "ddim" and own["settings"]["steps"] == 3


def test_a_picture_of_any_size_is_enlarged_whole(tmp_path: Path) -> None:
    recipe = {**PLAIN, "conditioners": [{"use": "low_resolution", "factor": 2}], "guidance": "none"}
    write_run(tmp_path / "large", recipe)
    with running([tmp_path / "large"]) as made:
        (model,) = made.client.get("/v1/models").json()["models"]
        assert model["task"] == "super-resolution" and model["settings"]["whole"] == {"default": True}
        said: dict[str, Any] = {"inputs": {"image": png(10, 14)}, "settings": {"images": 1, "steps": 2, "seed": 1}}
        answer = made.sample(said)
        assert answer["settings"]["size"] == [20, 28]
        picture = np.full((3, 10, 14), 200, np.uint8)
        pipeline = ldm_core.load(tmp_path / "large", device="cpu")
        (alone,) = pipeline.sample(inputs={"image": picture}, images=1, steps=2, seed=1, whole=True)
        assert np.array_equal(pixels(answer["images"][0]), alone.image.transpose(1, 2, 0))
        read = made.client.post("/v1/read", json={"picture": answer["images"][0]["png"]}).json()
        again = made.sample({key: read[key] for key in ("inputs", "settings")})
        assert np.array_equal(pixels(again["images"][0]), pixels(answer["images"][0]))
        fitted = made.sample({**said, "settings": {**said["settings"], "whole": False}})
        assert pixels(fitted["images"][0]).shape == (16, 16, 3)
        large = made.client.post("/v1/sample", json={"inputs": {"image": png(900, 900)}, "settings": {"steps": 2}})
        assert large.status_code == 413


def _metadata(image: dict[str, Any]) -> dict[str, str]:
    from ldm_core.data.images import png_metadata

    return png_metadata(base64.b64decode(image["png"]))


def test_the_example_of_a_prompt_is_one_that_the_run_drew(tmp_path: Path) -> None:
    """Not another model's words; somebody else's file in its place is no reason to stop."""
    drawn = png_bytes(np.zeros((3, 8, 8), np.uint8), {"prompt": "melting face\n" + "x" * 500, "seed": "0"})
    for name, data in (("own", drawn), ("bare", None), ("odd", b"\x89PNG and no picture")):
        write_run(tmp_path / name)
        if data is not None:
            (tmp_path / name / "samples").mkdir()
            (tmp_path / name / "samples" / "0000.png").write_bytes(data)
    with running([tmp_path / name for name in ("own", "bare", "odd")]) as served:
        models = served.client.get("/v1/models").json()["models"]
    own, bare, odd = (next(i["example"] for i in m["inputs"] if i["key"] == "caption") for m in models)
    assert own.startswith("melting face") and len(own) <= 121 and "\n" not in own
    assert bare == odd == "a red circle"
