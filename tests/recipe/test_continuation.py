"""The same data in another place, and more steps, are the same run: what goes on, what does not and why."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import TINY, Watch, go, weights

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.data import images
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.recipe import continuation
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve

CATALOG = Catalog.discover()


def pictures(folder: Path, count: int = 8, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(images.png_bytes(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)))
    return folder


def recipe(url: str, **trainer: Any) -> Recipe:
    dataset = {"use": "folder", "url": url}
    return resolve({**TINY, "dataset": dataset, "trainer": {**TINY["trainer"], **trainer}}, CATALOG)


def begun(out: Path, made: Recipe, *files: str) -> str:
    """A folder as a run of `made` leaves it, as far as its recipe is concerned."""
    storage.atomic_write(str(out / "recipe.yaml"), documents.dump_yaml(made.public()))
    for name in files or ("model.safetensors", "checkpoints/denoiser/x"):
        storage.atomic_write(str(out / name), b"")
    return str(out)


# ------------------------------------------------------------------------------------------------ the data's place


def test_a_fresh_folder_is_a_new_run(tmp_path: Path) -> None:
    made = recipe("photos")
    assert continuation.continuation(made, str(tmp_path / "none")) == continuation.Continuation(made)
    storage.atomic_write(str(tmp_path / "recipe.yaml"), "anything: 1")  # of a run that made nothing
    assert continuation.continuation(made, str(tmp_path)).known_as is made


@pytest.mark.parametrize("url", ["photos/", "./photos", "/data/photos", "../photos", "file:///data/photos", "a//b"])
def test_a_run_is_known_by_the_place_it_was_begun_with(url: str, tmp_path: Path) -> None:
    first = recipe("photos")
    found = continuation.continuation(recipe(url), begun(tmp_path, first))
    assert found.moved and found.known_as.identity() == first.identity()
    assert found.known_as.first_stage_identity() == first.first_stage_identity()
    assert documents.parse_yaml(found.begun, "x")["dataset"]["url"] == "photos"


def test_other_settings_of_the_data_are_another_run(tmp_path: Path) -> None:
    out = begun(tmp_path, recipe("photos"))
    other = resolve({**TINY, "dataset": {"use": "folder", "url": "x", "read": {"caption": "t"}}}, CATALOG)
    with pytest.raises(ConfigError, match=r"another recipe \(dataset\.read\.caption: None there, 't' now\)"):
        continuation.continuation(other, out)


def test_mixed_data_may_lie_elsewhere(tmp_path: Path) -> None:
    def mixed(*urls: str) -> Recipe:
        return resolve({**TINY, "dataset": [{"use": "folder", "url": url} for url in urls]}, CATALOG)

    found = continuation.continuation(mixed("/x/a", "b"), begun(tmp_path, mixed("a", "b")))
    assert found.moved and found.known_as.identity() == mixed("a", "b").identity()
    with pytest.raises(ConfigError, match="another recipe"):
        continuation.continuation(mixed("a"), str(tmp_path))


def test_data_goes_on_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, cut off after its first stage, goes on by other spellings, from elsewhere, and after a move."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos")
    (tmp_path / "photos" / "README.md").write_text("not read")
    short, stages = ("trainer.steps=2", "first_stage_trainer.steps=2"), ("first_stage", "latents", "denoiser")
    go("run", *short, stages=stages, dataset={"use": "folder", "url": "photos"})
    want = weights("run")
    shutil.move("photos", "moved")
    os.symlink(tmp_path / "moved", "link")
    (tmp_path / "moved" / "README.md").write_text("changed since")
    for url in ("moved/", "link", str(tmp_path / "moved")):
        Path("run/model.safetensors").unlink()
        watch = go("run", *short, stages=stages, dataset={"use": "folder", "url": url})
        assert ("latents", "skipped") in watch.ends and ("first_stage", "skipped") in watch.ends
        assert all(torch.equal(value, weights("run")[name]) for name, value in want.items())
    assert documents.parse_yaml(Path("run/begun.yaml").read_text(), "x")["dataset"]["url"] == "photos"
    assert documents.parse_yaml(Path("run/recipe.yaml").read_text(), "x")["dataset"]["url"] == str(tmp_path / "moved")
    pictures(tmp_path / "other", 9)
    with pytest.raises(ConfigError, match="holds a run of other data: what was read from photos is not what other"):
        go("run", *short, dataset={"use": "folder", "url": "other"})
    assert "moved" in Path("run/recipe.yaml").read_text(), "nothing was changed"


def test_a_run_without_out_is_found_by_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos")
    pictures(tmp_path / "others", seed=1)
    first = recipe("photos")
    begun(tmp_path / continuation.default_out(first), first)
    for url in ("photos/", "./photos", str(tmp_path / "photos")):
        assert continuation.default_out(recipe(url)) == f"runs/{first.name}" != f"runs/{recipe(url).name}"
    assert continuation.default_out(recipe("others")) == f"runs/{recipe('others').name}"
    assert continuation.default_out(recipe("photos", lr=0.5)) == f"runs/{recipe('photos', lr=0.5).name}"


def test_a_shorter_run_without_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos")
    first, longer = recipe("photos"), recipe("photos/", steps=20)
    assert continuation.shorter_run(longer) == ""
    begun(tmp_path / continuation.default_out(first), first)
    assert continuation.shorter_run(longer).endswith(f"say `out=runs/{first.name}`")
    assert continuation.default_out(longer) == f"runs/{longer.name}"
    for other in (first, recipe("photos", steps=2), recipe("photos", steps=20, lr=0.5)):
        assert continuation.shorter_run(other) == ""


# ------------------------------------------------------------------------------------------------------ more steps


@pytest.mark.parametrize(
    "before, now, why",
    [
        ({}, {"steps": 9}, ""),
        ({"schedule": "inverse_sqrt", "decay_start": 2}, {"steps": 20}, ""),
        ({"schedule": "cosine", "decay_end": 5}, {"steps": 20}, ""),
        ({"schedule": "linear", "final_lr": 0.1}, {"steps": 9, "decay_end": 8}, ""),
        ({}, {"steps": 7}, r"trainer\.steps: .* of 8 steps, and 7 were asked for; a run gets longer, not shorter"),
        ({"schedule": "cosine"}, {"steps": 9}, r"falls to its end at step 8 .*: `workflow.run` `trainer.init_from=.*` "
                                               r"`out=NEW` trainer\.steps=1"),
        ({"schedule": "linear", "final_lr": 0.1}, {"steps": 9}, r"at the last rate add trainer\.decay_end=8"),
        ({}, {"steps": 9, "lr": 0.5}, r"another recipe \(trainer\.lr: 0\.001 there, 0\.5 now\)"),
        ({"schedule": "cosine"}, {"steps": 9, "decay_end": 9}, "falls to its end at step 8"),
    ],
)  # fmt: skip
def test_steps_may_be_raised_where_the_run_so_far_stays_what_it_was(
    before: dict[str, Any], now: dict[str, Any], why: str, tmp_path: Path
) -> None:
    first = recipe("photos", **before)
    out = begun(tmp_path, first)
    if why:
        with pytest.raises(ConfigError, match=why):
            continuation.continuation(recipe("photos", **{**before, **now}), out)
        return
    found = continuation.continuation(recipe("photos", **{**before, **now}), out)
    assert found.known_as.identity() == first.identity() and not found.moved and found.begun


def kept(out: str, made: Recipe) -> None:
    """A checkpoint's manifest, as the run writes it."""
    folder = storage.join(out, "checkpoints", "denoiser", "step-00000004-0a0b0c0d")
    storage.make_folder(folder)
    storage.atomic_write(storage.join(folder, "manifest.json"), json.dumps({"recipe": made.public()}))


@pytest.mark.parametrize(
    "before, now, why",
    [
        (
            {"schedule": "cosine"},
            {"steps": 9},
            r"falls to its end at step 8 .*let it end with trainer\.steps=8, and then",
        ),
        ({"lr": 1e-3}, {"lr": 0.5}, r"recipe.yaml was edited .*\(trainer\.lr: 0\.001 there, 0\.5 now\).*set that back"),
        ({"schedule": "constant"}, {"steps": 9}, ""),
        ({"schedule": "constant"}, {"log_every": 7}, ""),
    ],
)
def test_an_edited_recipe_of_a_run_is_as_one_that_was_asked_for(
    before: dict[str, Any], now: dict[str, Any], why: str, tmp_path: Path
) -> None:
    """Nobody else than its checkpoint knows what it was."""
    first, edited = recipe("photos", **before), recipe("photos", **{**before, **now})
    out = begun(tmp_path, edited, "checkpoints/denoiser/x")
    kept(out, first)
    if why:
        with pytest.raises(ConfigError, match=why):
            continuation.continuation(edited, out)
        return
    found = continuation.continuation(edited, out)
    assert found.known_as.identity() == first.identity()
    again = documents.parse_yaml(found.begun, "x") if found.begun else first.public()
    assert again["trainer"]["steps"] == 8 and again["trainer"]["lr"] == first.trainer.lr


def test_an_edited_run_goes_on_to_its_new_length(tmp_path: Path) -> None:
    """By the recipe file in its own folder, whose steps were edited: the training that was longer from the start."""
    stages = ("first_stage", "denoiser")
    trainer = {**TINY["trainer"], "schedule": "constant"}
    go(tmp_path / "long", "trainer.steps=5", stages=stages, trainer=trainer)
    with pytest.raises(Interrupted):
        go(tmp_path / "run", "trainer.steps=4", stages=stages, trainer=trainer, watch=Watch(stop=("denoiser", 2)))
    file = tmp_path / "run" / "recipe.yaml"
    plain = documents.parse_yaml(file.read_text(), "x")
    (manifest,) = (tmp_path / "run/checkpoints/denoiser").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["recipe"] == plain
    plain["trainer"]["steps"] = 5
    file.write_text(documents.dump_yaml(plain))
    watch = go(tmp_path / "run", stages=stages, **plain)
    assert [step for stage, step in watch.steps if stage == "denoiser"] == [3, 4, 5]
    one, other = weights(tmp_path / "run"), weights(tmp_path / "long")
    assert all(torch.equal(one[name], other[name]) for name in other)
    plain["trainer"]["lr"] = 0.5
    file.write_text(documents.dump_yaml(plain))
    with pytest.raises(ConfigError, match=r"was edited since .*trainer\.lr: 0\.001 there, 0\.5 now"):
        go(tmp_path / "run", stages=stages, **plain)


def test_no_checkpoint_no_more_steps(tmp_path: Path) -> None:
    out = begun(tmp_path, recipe("photos"), "model.safetensors")
    with pytest.raises(ConfigError, match=r"no checkpoint of its 8 steps .*`trainer.init_from=.*`"):
        continuation.continuation(recipe("photos", steps=9), out)


@pytest.mark.parametrize(
    "files, changes, why",
    [
        (("first_stage.safetensors", "checkpoints/first_stage/x"), {"adversarial": False}, ""),
        (("first_stage.safetensors", "checkpoints/first_stage/x"), {"adversarial_start": 2}, ""),
        (("first_stage.safetensors", "checkpoints/first_stage/x"), {"adversarial_start": 7}, "have started later"),
        (("first_stage.safetensors", "checkpoints/first_stage/x"),
         {"adversarial_start": None, "adversarial_start_share": 0.5}, "a share of its 6 steps"),
        (("model.safetensors", "checkpoints/first_stage/x"), {}, r"was trained on the latents of its first stage.*"
                                                                 r"first_stage_trainer\.init_from"),
    ],
)  # fmt: skip
def test_steps_of_a_first_stage(files: tuple[str, ...], changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    def made(steps: int) -> Recipe:
        settings = {**TINY["first_stage_trainer"], **changes, "steps": steps}
        return resolve({**TINY, "first_stage_trainer": settings}, CATALOG)

    out = begun(tmp_path, made(6), *files)
    if why:
        with pytest.raises(ConfigError, match=why):
            continuation.continuation(made(9), out)
    else:
        assert continuation.continuation(made(9), out).known_as == made(6)


def test_a_longer_run_is_the_run_that_was_longer_from_the_start(tmp_path: Path) -> None:
    """Without anything random in the network, going on is what one training of as many steps would have been."""
    stages = ("first_stage", "latents", "denoiser")
    go(tmp_path / "long", "trainer.steps=5", stages=stages)
    go(tmp_path / "run", "trainer.steps=3", stages=stages)
    watch = go(tmp_path / "run", "trainer.steps=5", stages=stages)
    assert [step for stage, step in watch.steps if stage == "denoiser"] == [4, 5]
    whole, longer = weights(tmp_path / "long"), weights(tmp_path / "run")
    assert all(torch.equal(value, longer[name]) for name, value in whole.items())
    again = go(tmp_path / "run", "trainer.steps=5", stages=stages)
    assert ("denoiser", "skipped") in again.ends
    with pytest.raises(ConfigError, match="is one of 5 steps, and 3 were asked for"):
        go(tmp_path / "run", "trainer.steps=3")


# -------------------------------------------------------------------------------------------- other files that moved


def test_a_first_stage_and_a_tokenizer_may_lie_elsewhere(tmp_path: Path) -> None:
    go(tmp_path / "stage", "first_stage_trainer.steps=1", stages=("first_stage",))
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n")

    def made(stage: Path, tokenizer: Path) -> Recipe:
        text = {"use": "text", "tokenizer": str(tokenizer)}
        return resolve({**TINY, "first_stage": str(stage), "conditioners": [text], "scale": "small"}, CATALOG)

    first = made(tmp_path / "stage", words)
    out = begun(tmp_path / "run", first)
    shutil.copytree(tmp_path / "stage", tmp_path / "moved")
    shutil.copy(words, tmp_path / "moved" / "other.txt")
    found = continuation.continuation(made(tmp_path / "moved", tmp_path / "moved" / "other.txt"), out)
    assert found.known_as.identity() == first.identity()
    (tmp_path / "moved" / "other.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nc\nd\n")
    with pytest.raises(ConfigError, match="another recipe"):
        continuation.continuation(made(tmp_path / "moved", tmp_path / "moved" / "other.txt"), out)
