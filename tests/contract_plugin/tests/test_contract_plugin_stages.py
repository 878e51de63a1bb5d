"""A third party's first stage trains by the plain objective, with an auxiliary loss beside it, and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_runs import TINY, Watch, go, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.recipe.resolve import resolve

FIRST = ("first_stage",)
STAGE = {"use": "patches", "channels": 3}
_OTHERS = ("adv", "disc", "codebook")  # settings of the objective, as recipes had them
PLAIN = {k: v for k, v in TINY["first_stage_trainer"].items() if not k.startswith(_OTHERS)} | {"lr": 0.03}


def rows(out: Path) -> list[dict[str, Any]]:
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [r for r in found if r["stage"] == "first_stage"]


@pytest.mark.parametrize("others", [[], ["aligned"], [{"use": "aligned", "adaptive": False}]])
def test_it_trains_and_goes_on_from_a_stop(others: list[Any], tmp_path: Path) -> None:
    given: dict[str, Any] = {"first_stage": STAGE, "first_stage_trainer": PLAIN, "auxiliary_losses": others}
    go(tmp_path / "a", stages=FIRST, **given)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", stages=FIRST, watch=Watch(stop=("first_stage", 3)), **given)
    go(tmp_path / "b", stages=FIRST, **given)
    a, b = (weights(tmp_path / name, "first_stage.safetensors") for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not [k for k in a if "projection" in k]  # it is trained along, and stays behind
    logged = rows(tmp_path / "a")
    assert [r["loss"] for r in logged] == [r["loss"] for r in rows(tmp_path / "b")]
    assert logged[-1]["pixel"] < logged[0]["pixel"]
    assert ("aligned" in logged[0]) is bool(others) and ("aligned_weight" in logged[0]) is (others == ["aligned"])


def test_it_trains_through_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the laptop recipe, whose objective is another stage's."""
    settings = ["image_size=16", "dataset.scenes=24", "dataset.val_scenes=8", "first_stage_trainer.steps=4",
                "first_stage_trainer.images_per_step=4", "first_stage_trainer.statistics_images=16",
                "first_stage_trainer.log_every=1", "first_stage_trainer.warmup_steps=0"]  # fmt: skip
    losses = "auxiliary_losses=[{use: aligned, weight: 0.2}]"
    run = ["train", "--first-stage", "patches", "--cond", "none", "--until", "first_stage"]
    run += ["--out", str(tmp_path / "r")]
    assert main([*run, *settings, losses, "--quiet"]) == 0
    written = (tmp_path / "r" / "recipe.yaml").read_text()
    assert "stage_objective: {use: reconstruction" in written and "use: aligned" in written
    assert {"aligned", "aligned_weight", "pixel"} <= set(rows(tmp_path / "r")[-1])
    assert main([*run, *settings, "stage_objective.loss=l3"]) != 0
    assert "stage_objective.loss" in capfd.readouterr().err


SHORT = {"steps": 2, "images_per_step": 4, "statistics_images": 16, "log_every": 1, "warmup_steps": 0}


@pytest.mark.parametrize("way", ["option", "setting", "python"])
@pytest.mark.parametrize("said", [{}, {"loss": "l1"}])
def test_the_default_recipe_leaves_its_objective_out(way: str, said: dict[str, str], tmp_path: Path) -> None:
    """The caller's stage is trained by its own objective, with the caller's settings of that."""
    if way == "python":
        parts: dict[str, Any] = {"dataset": {"scenes": 24, "val_scenes": 8}, "first_stage_trainer": SHORT}
        more: dict[str, Any] = {"stage_objective": said} if said else {}
        run = ldm_core.train(first_stage="patches", image_size=16, until="first_stage", out=tmp_path, **parts, **more)
        assert run.trained == {"first_stage": 2}
    else:
        settings = ["image_size=16", "dataset.scenes=24", "dataset.val_scenes=8"]
        settings += [f"first_stage_trainer.{key}={value}" for key, value in SHORT.items()]
        settings += [f"stage_objective.{key}={value}" for key, value in said.items()]
        stage = ["--first-stage", "patches"] if way == "option" else ["first_stage=patches"]
        assert main(["train", *stage, *settings, "--until", "first_stage", "--out", str(tmp_path), "--quiet"]) == 0
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert written["stage_objective"]["use"] == "reconstruction"
    assert said.items() <= written["stage_objective"].items()
    assert [part["use"] for part in written["observers"]] == ["curves", "report"]


@pytest.mark.parametrize("way", ["setting", "python"])
def test_an_objective_that_is_named_stays(way: str, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"first_stage": "patches", "stage_objective": "adversarial"}
    if way == "python":
        with pytest.raises(ConfigError, match="Patches cannot be trained by 'adversarial'"):
            ldm_core.train(out=tmp_path, until="first_stage", **parts)
    else:
        assert main(["train", *(f"{k}={v}" for k, v in parts.items()), "--out", str(tmp_path), "--quiet"]) == 2


def test_what_is_lacking_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Patches cannot be trained by 'adversarial': it has no last_layer"):
        go(tmp_path / "a", stages=FIRST, first_stage=STAGE, stage_objective="adversarial")
    both = ["aligned", {"use": "aligned", "weight": 2.0}]
    with pytest.raises(ConfigError, match="auxiliary_losses: 'aligned' is there twice"):
        go(tmp_path / "b", stages=FIRST, first_stage=STAGE, first_stage_trainer=PLAIN, auxiliary_losses=both)


def test_other_losses_make_another_stage() -> None:
    catalog = Catalog.discover()
    plain = {**TINY, "first_stage": STAGE, "first_stage_trainer": PLAIN}
    changes: list[dict[str, Any]] = [{}, {"stage_objective": {"loss": "l1"}}, {"auxiliary_losses": ["aligned"]}]
    recipes = [resolve({**plain, **change}, catalog) for change in changes]
    assert len({r.first_stage_identity() for r in recipes}) == len({r.identity() for r in recipes}) == 3
    assert all(resolve(r.plain(), catalog) == r for r in recipes)
