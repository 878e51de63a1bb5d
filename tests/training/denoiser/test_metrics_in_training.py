"""Metrics of samples while the model trains, and the weights of the best step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from training_runs import TINY, Watch, weights

from ldm_core import Component, hookimpl, storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config import overrides
from ldm_core.config.fields import field
from ldm_core.contracts import Metric, MetricConfig, Pictures, Rows, Site
from ldm_core.data.images import png_bytes
from ldm_core.errors import ConfigError, DataError, Interrupted
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import remarks
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training import workflow
from ldm_core.training.denoiser import evaluation
from ldm_core.training.folder.metrics import read_rows, summarize
from ldm_core.training.samples import sheets

STEPS = TINY["trainer"]["steps"]
CLASSES = [{"use": "class_label", "width": 16, "dropout": 0.2}]
EVERY = ("evaluate_every=3", "evaluate_images=5", "checkpoint_every=2", "validate_images=8")
SETTINGS = tuple(f"trainer.{setting}" for setting in EVERY)


@attrs.frozen(kw_only=True)
class LevelsConfig(MetricConfig):
    """The options of the toy."""

    against: ClassVar[Any] = "set"
    higher_is_better: ClassVar[tuple[str, ...]] = ("level",)
    needed: int = field(2, "pictures on either side")
    after: int = field(0, "calls of `values` that go well; 0 = all")
    name: str = field("level", "the name of a value")


class Levels(Metric):
    """The mean level of the pictures, better if higher, and its distance from that of the others."""

    measured: ClassVar[list[int]] = []
    source = "mean levels"

    def __init__(self, config: LevelsConfig, site: Site) -> None:
        self.config, self.least, self._calls = config, config.needed, 0

    def measure(self, pictures: Pictures) -> dict[str, Any]:
        """A level a picture."""
        self.measured.extend(pictures.places)
        return {"level": pictures.images.double().mean((1, 2, 3)).cpu().numpy(), "place": np.array(pictures.places)}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """Both numbers."""
        assert against is not None
        if len(own["level"]) < self.least:
            raise DataError(f"levels need {self.least} pictures, and here are {len(own['level'])}")
        self._calls += 1
        if self.config.after and self._calls > self.config.after:
            raise DataError("the lamp is broken")
        level = own["level"].mean()
        return {self.config.name: level, "apart": abs(level - against["level"].mean())}


@attrs.frozen(kw_only=True)
class ReadingConfig(LevelsConfig):
    """One that reads the class."""

    reads: ClassVar[tuple[str, ...]] = ("class_label",)


class Reading(Levels):
    """The share of pictures of class 1, better if lower, of their examples alone."""

    source = "classes"

    def __init__(self, config: ReadingConfig, site: Site) -> None:
        super().__init__(config, site)

    def measure(self, pictures: Pictures) -> dict[str, Any]:
        """A class a picture."""
        return {"class": pictures.examples["class_label"].cpu().numpy()}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """Both shares."""
        assert against is not None
        return {"classes": float(own["class"].sum()), "there": float(against["class"].sum())}


def refused(**answers: Any) -> type:
    """A config with an answer that a training cannot fulfil."""
    return attrs.frozen(type("RefusedConfig", (LevelsConfig,), {**answers, "__doc__": "Another."}))


CONFIGS = {
    "levels": (LevelsConfig, Levels),
    "reading": (ReadingConfig, Reading),
    "pairs": (refused(subject="reconstructions"), Levels),
    "calling": (refused(needs_pipeline=True), Levels),
    "searching": (refused(against="training"), Levels),
}


class Seen(Watch):
    """An observer that keeps the metrics, and may break the run off where it is told of a stage's step or of text."""

    def __init__(self, die: Any = "") -> None:
        super().__init__()
        self.die, self.metrics = die, list[tuple[int, dict[str, float]]]()
        self.measured: list[int] = []

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        if stage == "denoiser_metrics":
            self.metrics.append((step, dict(logs)))
        if (stage, step) == self.die:
            raise KeyboardInterrupt

    @hookimpl
    def ldm_message(self, text: str, level: str) -> None:
        self.messages.append(text)
        if self.die and isinstance(self.die, str) and text.startswith(self.die):
            raise KeyboardInterrupt


def go(out: Path, *settings: str, watch: Seen | None = None, metrics: Any = ("levels",), **changes: Any) -> Seen:
    """The tiny run with metrics."""
    catalog, watch = Catalog.discover(), watch or Seen()
    for name, (config, factory) in CONFIGS.items():
        catalog.register(Component(kind="metric", name=name, config=config, factory=factory, summary="a toy"))
    catalog.manager.register(watch)
    trainer = {**TINY["trainer"]}
    plain = {**TINY, "trainer": trainer, "metrics": list(metrics), **changes}
    overrides.apply_overrides(plain, settings, ["first_stage", "denoiser", "dataset"])
    recipe, info = workflow.prepare(plain, catalog)
    workflow.run(recipe, info, catalog, str(out), stages=("first_stage", "latents", "denoiser"))
    return watch


def found(out: Path) -> list[dict[str, Any]]:
    """The rows of the metrics without their time."""
    rows = [row for row in read_rows(f"{out}/metrics.jsonl") if row["stage"] == "denoiser_metrics"]
    return [{k: v for k, v in row.items() if k != "time"} for row in rows]


def header(out: Path) -> dict[str, Any]:
    return dict(artifacts.read_header(f"{out}/best.safetensors", "model").extra)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without."""
    out = tmp_path_factory.mktemp("plain")
    go(out, metrics=(), conditioners=CLASSES)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run with metrics that keeps the best step's weights."""
    out = tmp_path_factory.mktemp("whole")
    Levels.measured.clear()
    watch = go(out, *SETTINGS, "trainer.keep_best=apart", metrics=["levels", "reading"], conditioners=CLASSES)
    watch.measured = sorted(Levels.measured)
    return out, watch


def test_they_leave_the_training_alone(plain: Path, whole: tuple[Path, Seen], tmp_path: Path) -> None:
    states = []
    for settings in ((), SETTINGS):
        torch.manual_seed(5)
        np.random.seed(5)
        go(tmp_path / f"{len(settings)}", *settings, conditioners=CLASSES)
        states.append((torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()))
    assert torch.equal(states[0][0], states[1][0]) and states[0][1] == states[1][1], "a generator was moved"
    expected = weights(plain)
    for out in (whole[0], tmp_path / "0", tmp_path / f"{len(SETTINGS)}"):
        got = weights(out)
        assert all(torch.equal(expected[k], got[k]) for k in expected)
    assert not (tmp_path / f"{len(SETTINGS)}" / "best.safetensors").exists()


def test_numbers_of_samples_come_with_their_steps(whole: tuple[Path, Seen]) -> None:
    out, watch = whole
    rows = found(out)
    assert [row["step"] for row in rows] == [3, 6, STEPS] == [step for step, _ in watch.metrics]
    assert rows[-1] == {"stage": "denoiser_metrics", "step": STEPS, **watch.metrics[-1][1]}
    assert summarize(read_rows(f"{out}/metrics.jsonl"))["denoiser"]["metrics_level"] == rows[-1]["level"]
    # eight held-out pictures, once, and five samples three times
    assert watch.measured == sorted([*range(8), *3 * [*range(5)]])
    assert rows[-1]["there"] >= rows[-1]["classes"] == rows[0]["classes"]
    pipeline = Pipeline.load(str(out), device="cpu")
    assert [m for m in watch.messages if "5 samples every 3 steps, beside 8 held-out pictures" in m]
    assert pipeline.recipe.metrics == () and "levels" in (out / "recipe.yaml").read_text()


def test_the_last_numbers_are_those_of_the_models_own_samples(tmp_path: Path) -> None:
    go(tmp_path, *SETTINGS)
    made = Pipeline.load(str(tmp_path), device="cpu").sample(images=5)
    level = np.mean([one.image.astype(float).mean() for one in made])
    assert found(tmp_path)[-1]["level"] == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize("name, better", [("apart", min), ("level", max)])
def test_the_best_step_keeps_its_weights(whole: tuple[Path, Seen], tmp_path: Path, name: str, better: Any) -> None:
    """They are those of a run that ends there."""
    out, shorter = whole[0] if name == "apart" else tmp_path / "run", tmp_path / "shorter"
    if name != "apart":
        go(out, *SETTINGS, f"trainer.keep_best={name}", conditioners=CLASSES)
    rows = found(out)
    best = better(rows, key=lambda row: row[name])
    about = header(out)
    assert (about["steps"], about["numbers"]) == (best["step"], {name: best[name]})
    assert about["identity"] == artifacts.read_header(f"{out}/model.safetensors", "model").extra["identity"]
    go(shorter, f"trainer.steps={best['step']}", conditioners=CLASSES)
    kept, expected = weights(out, "best.safetensors"), weights(shorter)
    assert kept.keys() == expected.keys() and all(torch.equal(kept[k], expected[k]) for k in kept)
    assert main(["sample", str(out / "best.safetensors"), "--class", "1", "--out", str(tmp_path / "drawn")]) == 0
    assert "best.safetensors" in json.loads((out / ".ldm-files.json").read_text())["ldm_core_files"]


BETWEEN = [pytest.param(("denoiser", step), marks=pytest.mark.slow) for step in (5, 7)]
KILLS = [("denoiser_metrics", 6), "denoiser: step 6,", "denoiser: step 8,", *BETWEEN]


@pytest.mark.parametrize("die", KILLS, ids=["within", "behind", "at the end", "before", "later"])
def test_a_killed_run_ends_with_the_same_files(whole: tuple[Path, Seen], tmp_path: Path, die: Any) -> None:
    """Between an evaluation and its checkpoint, too: the steps after the checkpoint are evaluated again."""
    out = tmp_path / "run"
    settings = (*SETTINGS, "trainer.keep_best=apart")
    with pytest.raises(KeyboardInterrupt):
        go(out, *settings, watch=Seen(die), metrics=["levels", "reading"], conditioners=CLASSES)
    go(out, *settings, metrics=["levels", "reading"], conditioners=CLASSES)
    assert found(out) == found(whole[0])
    for name in ("best.safetensors", "model.safetensors"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes(), name


@pytest.mark.parametrize("source", ["mean levels", "other levels"])
def test_a_metric_that_is_added_on_resume_leaves_the_best(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only another way to measure the kept value makes what was kept no measure any more."""
    settings = (*SETTINGS, "trainer.keep_best=level")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, *settings, watch=Seen(("denoiser", 7)), conditioners=CLASSES)
    kept = header(tmp_path)
    monkeypatch.setattr(Levels, "values", lambda *_: {"level": -1.0})
    monkeypatch.setattr(Levels, "source", source)
    go(tmp_path, *settings, metrics=["levels", "reading"], conditioners=CLASSES)
    assert found(tmp_path)[-1]["level"] == -1.0 and "classes" in found(tmp_path)[-1]
    assert (header(tmp_path) == kept) == (source == "mean levels")


@pytest.mark.parametrize("where", ["sampling", "measuring"])
def test_a_stop_cuts_it_off_and_the_resumed_run_evaluates_that_step(
    whole: tuple[Path, Seen], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    place, name = (Pipeline, "stream") if where == "sampling" else (sheets, "sample")
    original = getattr(place, name)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        made = list(original(*args, **kwargs)) if where == "measuring" else None
        if not asked:
            asked.append(1)
            os.kill(os.getpid(), 15)
        return original(*args, **kwargs) if made is None else made

    more: dict[str, Any] = {"metrics": ["levels", "reading"], "conditioners": CLASSES}
    settings = (*SETTINGS, "trainer.keep_best=apart")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopping)
        with pytest.raises(Interrupted, match="step 3 of 8"):
            go(tmp_path, *settings, **more)
    assert found(tmp_path) == [] and not (tmp_path / "best.safetensors").exists()
    go(tmp_path, *settings, **more)
    assert found(tmp_path) == found(whole[0])
    assert (tmp_path / "best.safetensors").read_bytes() == (whole[0] / "best.safetensors").read_bytes()


def test_what_an_evaluation_lacks_is_a_warning(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "stream", refuse)
        watch = go(tmp_path / "memory", *SETTINGS, "trainer.keep_best=apart", conditioners=CLASSES)
    assert [m for m in watch.messages if "no evaluation of step 3, memory does not suffice" in m]
    watch = go(tmp_path / "broken", *SETTINGS, metrics=[{"use": "levels", "after": 2}], conditioners=CLASSES)
    assert [step for step, _ in watch.metrics] == [3]
    assert [m for m in watch.messages if m == "denoiser: the evaluation of step 6 failed: the lamp is broken"]
    for name in ("memory", "broken"):
        expected, got = weights(plain), weights(tmp_path / name)
        assert all(torch.equal(expected[k], got[k]) for k in expected)
        assert not (tmp_path / name / "best.safetensors").exists()


@pytest.mark.parametrize(
    "metrics, settings, said",
    [
        ([], ["trainer.evaluate_every=3"], "trainer.evaluate_every: the recipe has no metrics; name some in `metrics`"),
        (["levels"], ["trainer.keep_best=apart"], "trainer.keep_best: nothing is measured; set trainer.evaluate_every"),
        (
            ["pairs"],
            [],
            "metric 'pairs' measures reconstructions, and .* `evaluate`, the command of ldm-plugin-metrics",
        ),
        (["calling"], [], "metric 'calling' calls the model, and .* `evaluate`"),
        (["searching"], [], "metric 'searching' searches the training pictures, .* `evaluate`"),
        (["reading"], [], "metric 'reading' reads 'class_label', which no conditioner reads"),
        (["levls"], [], "metrics.*levls.*did you mean 'levels'"),
        (
            [{"use": "levels", "needed": 6}],
            SETTINGS,
            "levels' .* needs 6 pictures .* trainer.evaluate_images is 5; set",
        ),
        (["levels"], [*SETTINGS, "trainer.keep_best=fd"], "trainer.keep_best: the recipe's metrics give level, apart,"),
        (["levels", "levels"], SETTINGS, "gives 'apart', as one before it does; leave one out"),
        (
            [{"use": "levels", "needed": 9}],
            ["trainer.evaluate_every=3", "trainer.evaluate_images=9"],
            "levels' .* needs 9 pictures on either side, and the data give 8 to compare with",
        ),
        (["levels"], SETTINGS, "not finite"),
    ],
)
def test_misfits_are_found_before_anything_is_trained(
    tmp_path: Path, metrics: list[Any], settings: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "not finite" in said:
        monkeypatch.setattr(Levels, "values", lambda *_: {"level": float("nan")})
    watch = Seen()
    with pytest.raises(ConfigError if "not finite" not in said else DataError, match=said):
        go(tmp_path, *settings, watch=watch, metrics=metrics)
    assert not watch.ends and not (tmp_path / "first_stage.safetensors").exists()


def test_a_users_file_of_the_name_is_not_overwritten(tmp_path: Path) -> None:
    picture = png_bytes(np.zeros((3, 8, 8), np.uint8))
    storage.atomic_write(f"{tmp_path}/best.safetensors", picture)
    with pytest.raises(ConfigError, match=r"holds best\.safetensors, which this run did not write"):
        go(tmp_path, *SETTINGS, "trainer.keep_best=apart")
    go(tmp_path, *SETTINGS)  # which does not write it
    assert storage.read_bytes(f"{tmp_path}/best.safetensors") == picture


def test_neither_key_makes_another_run(whole: tuple[Path, Seen], plain: Path) -> None:
    """The model's identity is that of the run without metrics, and a finished run stays finished with others."""
    recipe = workflow.prepare({**TINY, "metrics": ["brightness"]}, Catalog.discover())[0]
    assert [line for line in remarks(recipe) if line.startswith("metrics: none is measured")]
    identities = [
        artifacts.read_header(f"{out}/model.safetensors", "model").extra["identity"] for out in (whole[0], plain)
    ]
    assert identities[0] == identities[1]
    watch = go(plain, "trainer.evaluate_every=2", conditioners=CLASSES)
    assert ("denoiser", "skipped") in watch.ends and not watch.metrics


class _World:
    """One of three processes; what the others give is known beforehand."""

    def __init__(self, rank: int, others: dict[int, Any]) -> None:
        self.rank, self.size, self._others = rank, 3, others
        self.main, self.device = rank == 0, torch.device("cpu")

    def gather(self, value: Any) -> list[Any]:
        self._others[self.rank] = value
        return [self._others.get(r, (None, {})) for r in range(self.size)]


@pytest.mark.parametrize("count", [3, 16, 40, 100])
def test_shares_of_rows_come_together_by_place(count: int) -> None:
    """Also where there are fewer blocks than processes."""
    asked = evaluation._Asked(Levels(LevelsConfig(), Site(size=(16, 16))), LevelsConfig(), None)  # type: ignore[arg-type]
    shares: dict[int, Any] = {}
    rows: Any = {}
    for rank in (2, 1, 0):
        made = object.__new__(evaluation.Evaluation)
        context = attrs.make_class("Context", ["run"])(attrs.make_class("Run", ["world"])(_World(rank, shares)))
        made._context, made._asked, made._keys, made._kinds = context, [asked], [], {}
        images = [{"image": np.full((3, 4, 4), i, np.uint8)} for i in range(count)]
        try:
            rows = made._measured(images.__getitem__, count)
        except IndexError:
            continue
    assert rows["mean levels"]["place"].tolist() == list(range(count))
    assert rows["mean levels"]["level"].tolist() == list(map(float, range(count)))
