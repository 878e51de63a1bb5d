"""Blind comparison, runs in training, and the description of the interface."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from header_files import write_run
from ldm_plugin_serve.pairs.statistics import wilson
from ldm_plugin_serve.web.app import routes
from serve_process import Running, pixels, running

from ldm_core.data.images import png_bytes


def samples(folder: Path, level: int, prompts: list[str]) -> None:
    (folder / "samples").mkdir(parents=True)
    for i, prompt in enumerate(prompts):
        data = png_bytes(np.full((3, 8, 8), level, np.uint8), {"prompt": prompt, "seed": str(i), "weights_sha256": "x"})
        (folder / "samples" / f"{i:04d}.png").write_bytes(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a")
    for name, level in (("a", 10), ("b", 240)):
        samples(folder / name, level, ["=1+1", "a red circle", "a blue star", f"of {name} alone"])
    (folder / "b" / "recipe.yaml").write_text("image_size: 8\n")
    (folder / "b" / "previews").mkdir()
    (folder / "b" / "previews" / "samples-00000100.png").write_bytes(png_bytes(np.zeros((3, 8, 8), np.uint8)))
    before = [{"stage": "denoiser", "step": i, "loss": 99.0, "time": 0} for i in range(1, 40, 3)]  # then begun again
    rows = [
        {"stage": "denoiser", "step": i, "loss": 1 / i if i % 2 else float("nan"), "time": i} for i in range(1, 3001)
    ]
    text = "\n".join(json.dumps(row) for row in [*before, *rows]) + '\n{"stage": "den'
    (folder / "b" / "metrics.jsonl").write_text(text)
    with running([folder / "a", folder / "b"]) as made:
        yield made


def test_wilsons_interval() -> None:
    low, high = wilson(7, 10)
    assert abs(low - 0.3968) < 1e-4 and abs(high - 0.8922) < 1e-4
    assert wilson(0, 0) == (0.0, 1.0) and wilson(10, 10)[1] > 0.9999 and wilson(0, 4)[0] == 0.0


def test_a_comparison_is_blind_and_its_votes_count(served: Running) -> None:
    client = served.client
    begun = client.post("/v1/compare", json={"a": "a", "b": "b", "seed": 4})
    assert begun.status_code == 201 and begun.json()["count"] == 3 and begun.json()["shared"], (
        begun.text
    )  # the prompts of both
    place = begun.headers["location"]
    assert "result" not in begun.json()
    for number in range(3):
        pair = client.get(f"{place}/pairs/{number}").json()
        left, right = (int(pixels({"png": pair[side]})[0, 0, 0]) for side in ("left", "right"))
        assert {left, right} == {10, 240} and b"weights" not in json.dumps(pair).encode()
        choice = "tie" if number == 1 else "left" if left == 10 else "right"
        state = client.post(f"{place}/votes", json={"pair": number, "choice": choice}).json()
    result = state["result"]
    assert (result["for_a"], result["for_b"], result["ties"], result["share_a"]) == (2, 0, 1, 1.0)
    assert result["low"] == wilson(2, 2)[0]
    rows = list(csv.DictReader(io.StringIO(client.get(f"{place}/votes.csv").text)))
    assert [row["preferred"] for row in rows] == ["a", "tie", "a"] and all(len(row) == 7 for row in rows)
    assert {row["prompt"] for row in rows} == {"'=1+1", "a red circle", "a blue star"}
    again = client.post("/v1/compare", json={"a": "a", "b": "b", "seed": 4}).headers["location"]
    one, other = (client.get(f"{where}/pairs/0").json() for where in (place, again))
    assert one == other  # a seed says the order and the sides
    assert client.post(f"{place}/votes", json={"pair": 0, "choice": "both"}).status_code == 422


def test_runs_without_a_common_input_are_paired_in_order(tmp_path: Path) -> None:
    for name, level in (("a", 10), ("b", 240)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("image_size: 8\n")
        samples(tmp_path / name, level, [f"{name} {i}" for i in range(2)])
    with running([tmp_path / "a", tmp_path / "b"]) as served:
        begun = served.client.post("/v1/compare", json={"a": "a", "b": "b"})
        assert begun.json() | {"id": ""} == {"id": "", "count": 2, "voted": 0, "shared": False, "left": [0, 1]}
        assert served.client.get(f"{begun.headers['location']}/pairs/0").json()["prompt"] == ""


def test_a_run_in_training_shows_its_numbers_and_pictures(served: Running) -> None:
    models = served.client.get("/v1/models").json()["models"]
    assert [(one["id"], one["ready"]) for one in models] == [("a", True), ("b", False)]
    assert served.client.post("/v1/sample", json={"model": "b"}).status_code == 409
    loss = served.client.get("/v1/runs/b/curves").json()["stages"]["denoiser"]["loss"]
    assert 900 < len(loss["step"]) <= 1001 and loss["step"][-1] == 3000 and None in loss["value"]
    assert loss["step"] == sorted(set(loss["step"])) and 99.0 not in loss["value"]  # of steps made again, the last
    (one,) = served.client.get("/v1/runs/b/previews").json()["previews"]
    assert (one["kind"], one["step"]) == ("samples", 100)
    assert served.client.get("/v1/runs/b/previews/0").content.startswith(b"\x89PNG")
    assert served.client.get("/v1/runs/a/curves").json()["stages"] == {}


def test_the_description_has_every_route(served: Running) -> None:
    described = served.client.get("/openapi.json").json()
    listed = {(path, method) for path, methods in described["paths"].items() for method in methods}
    known = {
        (route.path, method.lower())
        for route in routes(served.site)
        for method in route.methods or ()
        if method != "HEAD" and (route.path.startswith("/v1") or route.path in ("/healthz", "/metrics"))
    }
    assert listed == known
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert names <= set(described["components"]["schemas"])
    page = served.client.get("/docs").text
    assert "POST /v1/sample" in page and not re.search(r"(?:src|href)=.?https?:", page)
    assert "<script" not in page and "style=" not in page
