"""A run that is trained on while it is served: its new files, its old requests, the bound of memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from header_files import PLAIN, write_run
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models.marks import Marks
from ldm_plugin_serve.models.shelf import known_runs
from ldm_plugin_serve.work.batch import Batch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from serve_process import Running, pixels, running, until

import ldm_core
from ldm_core.errors import ConfigError
from ldm_core.recipe import artifacts

BODY: dict[str, Any] = {"inputs": {"caption": "a red circle"}, "settings": {"images": 2, "steps": 2, "seed": 5}}


def train_on(run: Path) -> None:
    """Write other weights of the same recipe, as a training does: in one step."""
    file = run / artifacts.MODEL_FILE
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    state = load_file(file)
    moved = {name: each + 0.1 if each.is_floating_point() else each for name, each in state.items()}
    save_file(moved, run / "next.safetensors", metadata=told)
    (run / "next.safetensors").replace(file)


def same(answer: dict[str, Any], run: Path) -> bool:
    """True if the pictures are those of the run's present weights, from as many rows."""
    own = ldm_core.load(run, device="cpu").sample("a red circle", images=2, steps=2, seed=5)
    return all(
        (pixels(image) == one.image.transpose(1, 2, 0)).all() for one, image in zip(own, answer["images"], strict=True)
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "words")
    return tmp_path / "words"


def hashes(served: Running) -> list[str]:
    return [one["weights_sha256"] for one in served.client.get("/v1/models").json()["models"]]


def test_the_next_request_meets_the_new_weights(run: Path) -> None:
    with running([run]) as served:
        before, known = served.sample(BODY), hashes(served)
        assert same(before, run)
        train_on(run)
        after = served.sample(BODY)
        assert same(after, run) and not same(before, run) and hashes(served) != known
        until(lambda: len(served.site.shelf.loaded) == 1)  # the old weights are let go
        write_run(run, {**PLAIN, "sample": {"steps": 3, "images": 1}})  # another recipe is another description
        assert served.client.get("/v1/models").json()["models"][0]["settings"]["steps"]["default"] == 3


def test_accepted_requests_are_answered_by_the_weights_that_they_were_checked_by(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, release = Batch.run, threading.Event()

    def run_batch(self: Batch, shelf: Any) -> Any:
        release.wait(20)
        return whole(self, shelf)

    with running([run]) as served:
        first = served.sample(BODY)
        monkeypatch.setattr(Batch, "run", run_batch)
        name = served.client.post("/v1/sample?wait=false", json=BODY).json()["id"]
        train_on(run)
        hashes(served)  # it is noticed
        release.set()
        until(lambda: served.client.get(f"/v1/jobs/{name}").json()["state"] == "done")
        answer = served.client.get(f"/v1/jobs/{name}").json()["result"]
        assert [one["png"] for one in answer["images"]] == [one["png"] for one in first["images"]]
        assert same(served.sample(BODY), run)


@pytest.mark.parametrize("other", [False, True])
def test_within_the_bound_of_memory_the_new_weights_answer_old_requests(
    run: Path, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old weights are gone by then: those in their place answer, if they are of the same recipe."""
    whole, release = Batch.run, threading.Event()

    def run_batch(self: Batch, shelf: Any) -> Any:
        release.wait(20)
        return whole(self, shelf)

    monkeypatch.setattr(Batch, "run", run_batch)
    with running([run], Limits(memory=1)) as served:
        name = served.client.post("/v1/sample?wait=false", json=BODY).json()["id"]
        write_run(run, {**PLAIN, "sample": {"steps": 3, "images": 1}}) if other else train_on(run)
        hashes(served)
        release.set()
        until(lambda: served.client.get(f"/v1/jobs/{name}").json()["state"] in ("done", "failed"))
        told = served.client.get(f"/v1/jobs/{name}").json()
        assert len(served.site.shelf.loaded) == (0 if other else 1)
        if other:
            assert told["error"]["where"] == "model" and told["error"]["fix"] == "ask again"
        else:
            assert same(told["result"], run)


def test_files_that_do_not_read_change_nothing(run: Path) -> None:
    with running([run]) as served:
        before = served.sample(BODY)
        good = (run / artifacts.MODEL_FILE).read_bytes()
        for data in (b"", good[:100], b"x" * 500):
            (run / artifacts.MODEL_FILE).write_bytes(data)
            assert [one["png"] for one in served.sample(BODY)["images"]] == [one["png"] for one in before["images"]]
        (run / artifacts.MODEL_FILE).unlink()
        assert len(served.sample(BODY)["images"]) == 2


def test_marks_of_files(run: Path) -> None:
    """Far ones are looked at every ten seconds at most."""
    from ldm_core import storage

    marks, far = Marks(), "memory://far/model.safetensors"
    assert not marks.changed(str(run)) and not marks.changed(str(run))
    train_on(run)
    assert marks.changed(str(run)) and not marks.changed(str(run))
    storage.atomic_write(far, (run / artifacts.MODEL_FILE).read_bytes())
    assert not marks.changed(far)
    storage.atomic_write(far, (run / artifacts.STAGE_FILE).read_bytes())
    assert not marks.changed(far)  # too soon
    marks._due[far] = 0.0
    assert marks.changed(far)


def test_a_run_that_has_not_begun_is_told_what_to_do(tmp_path: Path) -> None:
    """One line; with its recipe there it has begun, and is served as a training."""
    with pytest.raises(ConfigError, match="missing: is not there; give the folder of a run that has begun"):
        known_runs([str(tmp_path / "missing")])
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "notes.txt").write_text("words")
    with pytest.raises(ConfigError, match="young: holds no run yet; begin its training first") as said:
        known_runs([str(tmp_path / "young")])
    assert "\n" not in str(said.value)
    (tmp_path / "young" / "recipe.yaml").write_text("{}")
    known_runs([str(tmp_path / "young")])
    with running([tmp_path / "young"]) as served:
        (model,) = served.client.get("/v1/models").json()["models"]
        assert not model["ready"]
