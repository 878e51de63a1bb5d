"""``ldm-run tune``: its candidates, halving on planted figures, the rules of the presets, and that it goes on."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import attrs
import pytest
from header_files import PLAIN, write_run
from ldm_plugin_feature_cache.config import DeepCacheConfig
from ldm_plugin_study.bench.result.choice import SIZES
from ldm_plugin_study.study import quality
from ldm_plugin_study.study.quality import Figure
from ldm_plugin_study.tune.caches import USUAL, Cache, cache_of
from ldm_plugin_study.tune.candidates import Candidate, Space, candidates, own
from ldm_plugin_study.tune.choice import Rule, Tried, choose
from ldm_plugin_study.tune.halving import fronts, schedule, survivors

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config import documents
from ldm_core.data.images import png_metadata
from ldm_core.errors import ComponentError, ConfigError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.settings import with_settings
from ldm_core.weights import presets

CLASSES = {"use": "class_label", "classes": 32, "width": 8, "dropout": 0.1}
RECIPE = {
    **PLAIN, "first_stage": "identity", "conditioners": [CLASSES],
    "dataset": {"use": "shapes", "scenes": 16, "val_scenes": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def tried(quality: float, time: float, *, low: float | None = None, high: float | None = None, up: bool = False) -> Any:
    name = Candidate(sampler="ddim", time_grid="trailing", steps=int(time * 1000), guidance="cfg")
    figure = Figure(name="fd", label="FD", value=quality, higher=up, low=low, high=high)
    return Tried(candidate=name, figures=(figure,), images=9, ratios=(time * 0.9, time, time * 1.2), unit=1.0)


# -------------------------------------------------------------------------------------------------- halving


def test_the_schedule_has_a_third_of_the_candidates_on_three_times_the_pictures() -> None:
    assert schedule(48, 500, 3) == [(48, 56), (16, 167), (6, 500)]
    assert schedule(10, 90, 3) == [(10, 30), (4, 90)] and schedule(4, 90, 3) == [(4, 90)]
    assert schedule(48, 500, 1) == [(48, 500)]


def test_the_planted_front_survives() -> None:
    """Candidates on the curve quality = 1 / time, and behind it others by a planted distance."""
    on = [tried(1 / t, t) for t in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)]
    behind = [tried(1 / t + 30 * k, t * 1.01) for t in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32) for k in (1, 2)]
    for seed in range(5):
        points = random.Random(seed).sample(on + behind, 18)
        assert fronts(points, higher=False)[0] == on
        assert survivors(points, 6, higher=False) == on
        assert survivors(points, 3, higher=False) == [on[0], on[2], on[5]]  # both ends, and the middle as a ratio
        assert survivors(points, 2, higher=False) == [on[0], on[5]]
        more = survivors(points, 8, higher=False)
        assert more[:6] == on and all(each in behind for each in more[6:])
    assert sum(len(front) for front in fronts(on + behind, higher=False)) == 18
    turned = [tried(t, t, up=True) for t in (0.1, 0.2)]
    assert fronts([*turned, tried(0.1, 0.3, up=True)], higher=True)[0] == turned


def test_each_preset_is_chosen_by_its_rule() -> None:
    points = [
        tried(30, 0.010),
        tried(11.9, 0.020),
        tried(10.4, 0.040),
        tried(10.0, 0.080, low=9.5, high=10.5),
        tried(10.2, 0.160),
    ]
    found = choose(points, Rule())
    assert [found[name].time for name in ("fast", "balanced", "best")] == [0.020, 0.040, 0.080]
    assert choose(points, Rule(within=0.0))["fast"].time == 0.040  # the interval is wider
    assert choose(points, Rule(within=5.0))["fast"].time == 0.010
    limited = choose(points, Rule(seconds=0.03))
    assert [limited[name].time for name in ("fast", "balanced", "best")] == [0.020] * 3
    with pytest.raises(ConfigError, match=r"none of 5 candidates .* in 0.001 s; the fastest takes 10 ms"):
        choose(points, Rule(seconds=0.001))
    up = [tried(0.8, 0.01, up=True), tried(0.93, 0.02, up=True), tried(0.95, 0.04, low=0.92, high=0.97, up=True)]
    found = choose(up, Rule(within=0.1))
    assert [found[name].time for name in ("fast", "balanced", "best")] == [0.02, 0.02, 0.04]


# -------------------------------------------------------------------------------------------------- candidates


def test_candidates_are_drawn_by_the_seed_and_more_of_them_hold_fewer(catalog: Catalog) -> None:
    recipe = resolve(RECIPE, catalog)
    few, many = (candidates(recipe, Space(count=count), catalog) for count in (10, 30))
    assert few == candidates(recipe, Space(count=10), catalog) and len(few) == 10 and len(many) == 30
    assert set(few) <= set(many) and few[0] == many[0] == own(recipe) and len({c.name for c in many}) == 30
    assert set(candidates(recipe, Space(count=10, seed=1), catalog)) != set(few)
    assert {c.interval for c in many if c.scale == 1} == {None}
    for candidate in many:  # by a preset they are what they are as settings
        lines = [*candidate.settings, f"sample.steps={candidate.steps}"]
        assert with_settings(recipe, candidate.plain(), catalog) == with_settings(recipe, lines, catalog)


def test_further_settings_are_tried_beside_none(catalog: Catalog) -> None:
    recipe = resolve(RECIPE, catalog)
    space = Space(samplers=["ddim"], time_grids=["trailing"], steps=[4], scales=[2.0], intervals=[None])
    made = candidates(recipe, attrs.evolve(space, more=["guidance.rescale=0.5"], precisions=["fp32", "bf16"]), catalog)
    assert [(c.more, c.precision) for c in made[1:]] == [
        ("", "fp32"), ("", "bf16"), ("guidance.rescale=0.5", "fp32"), ("guidance.rescale=0.5", "bf16")
    ]  # fmt: skip
    assert made[3].plain()["guidance"] == {"use": "cfg", "scale": 2, "interval": None, "rescale": 0.5}
    assert "guidance.rescale=0.5" in made[3].label and "/" not in made[3].name


def test_caches_are_tried_where_steps_are_enough_for_them(catalog: Catalog) -> None:
    recipe = resolve(RECIPE, catalog)
    space = Space(samplers=["ddim"], time_grids=["trailing"], steps=[4, 6, 12], scales=[2.0], intervals=[None])
    made = candidates(recipe, attrs.evolve(space, caches=USUAL), catalog)[1:]
    tried = {steps: [c.cache.name for c in made if c.steps == steps and c.cache] for steps in (4, 6, 12)}
    assert tried[4] == ["deep_cache2"] and tried[6] == ["deep_cache2", "deep_cache3"]
    assert tried[12] == ["deep_cache2", "deep_cache3", "deep_cache3at0", "first_block_cache0.1", "first_block_cache0.3"]
    last = made[-1]
    assert last.plain()["adapters"] == [{"use": "first_block_cache", "threshold": 0.3}]
    assert last.name.endswith("first_block_cache0.3") and "first_block_cache 0.3" in last.label
    found = with_settings(recipe, last.settings, catalog).adapters
    assert [(part.use, part.config.threshold) for part in found] == [("first_block_cache", 0.3)]
    dense = next(c for c in made if c.cache == Cache("deep_cache", 3, center=0.0))
    config = with_settings(recipe, dense.settings, catalog).adapters[0].config
    assert config.full_steps(12) == DeepCacheConfig(interval=3, schedule="quadratic", center=0.0).full_steps(12)
    assert config.full_steps(12) != DeepCacheConfig(interval=3).full_steps(12), "it is the uniform one"
    presets.check({"fast": presets.Preset(settings=dense.plain())}, catalog)
    given = "adapters=[{use: deep_cache, interval: 5}]"
    own = candidates(recipe, attrs.evolve(space, caches=USUAL, more=[given]), catalog)
    assert {c.cache for c in own if c.more} == {None}, "two caches at once"


@pytest.mark.parametrize(
    ("text", "cache"),
    [
        ("none", None),
        ("deep_cache=3", Cache("deep_cache", 3)),
        ("deep_cache=3@0", Cache("deep_cache", 3, center=0.0)),
        ("deep_cache=2@0.3", Cache("deep_cache", 2, center=0.3)),
    ],
)
def test_a_cache_in_words(text: str, cache: Any) -> None:
    assert cache_of(text) == cache
    for wrong in (
        "deep_cache",
        "deep_cache=many",
        "deep_cache=true",
        "other=3",
        "=3",
        "deep_cache=3@",
        "first_block_cache=0.1@0",
    ):
        with pytest.raises(ConfigError, match=r"expected none, deep_cache=INTERVAL, .* first_block_cache=THRESHOLD"):
            cache_of(wrong)


@pytest.mark.parametrize(
    ("space", "error", "said"),
    [
        (Space(samplers=["dim"]), ComponentError, "no sampler named 'dim'"),
        (Space(more=["denoiser.heads=3"]), ConfigError, "denoiser: is part of the trained model"),
        (Space(more=["sample.batch=3"]), ConfigError, "sample.batch: a preset takes steps"),
        (Space(more=["guidance.scal=3"]), ConfigError, "scal"),
        (Space(caches=[Cache("deep_cache", 0)], steps=[4]), ConfigError, "interval"),
        (
            Space(caches=[None, Cache("deep_cache", 3, center=3.0)], steps=[9]),
            ConfigError,
            "center: expected at most 1",
        ),
        (
            Space(caches=[None, Cache("deep_cache", 3)], steps=[4, 5]),
            ConfigError,
            "deep_cache 3 has nothing to keep in 5",
        ),
        (Space(steps=[4, 2000], time_grids=["trailing"]), ConfigError, "steps=2000"),
        (Space(scales=[-1.0], steps=[0]), ConfigError, "steps"),
    ],
)
def test_candidates_that_do_not_fit(space: Space, error: Any, said: str, catalog: Catalog) -> None:
    recipe = resolve(RECIPE, catalog)
    with pytest.raises(error, match=said):
        candidates(recipe, space, catalog)


# -------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of random weights, finished by what its files say."""
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))
    folder = tmp_path / "run"
    recipe = write_run(folder, RECIPE)
    (folder / "recipe.yaml").write_text(documents.dump_yaml(recipe.public()))
    return folder


CALL = (
    *("--metrics", "brightness", "--images", "8", "--rungs", "2", "--candidates", "5", "--bootstrap", "3"),
    *("--steps", "1,2,3", "--sampler", "ddim", "--time-grid", "trailing", "--interval", "always"),
    *("--batch", "2", "--rounds", "1", "--json", "--quiet"),
)


def test_a_tuning_goes_on_after_a_kill_and_keeps_presets(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(run / "model.safetensors")
    before = artifacts.sha256(model)
    done: list[str] = []
    real = quality.evaluate

    def killed(question: Any, cell: Any, folder: str) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        real(question, cell, folder)
        done.append(folder)

    with monkeypatch.context() as patch:
        patch.setattr(quality, "evaluate", killed)
        assert main(["tune", str(run), *CALL]) != 0
    assert not presets.text_of(model) and not (run / "lock").exists()
    kept = {p: p.stat().st_mtime_ns for p in (run / "tune").rglob("*.json")}
    assert sum(p.name == "evaluation.json" for p in kept) == 3 and sum(p.name == "times.json" for p in kept) == 5
    capsys.readouterr()

    assert main(["tune", str(run), *CALL]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items() if p.name == "evaluation.json")
    assert [len(rung) for rung in found["rungs"]] == [5, 4] and [r[0]["images"] for r in found["rungs"]] == [3, 8]
    last = {t["name"]: t for t in found["rungs"][1]}
    assert set(found["presets"]) == {"fast", "balanced", "best"} and set(found["presets"].values()) <= set(last)
    assert all(len(t["values"]["brightness"]) == 3 and t["seconds"] > 0 for t in last.values())
    least = min(t["values"]["brightness"]["value"] for t in last.values())
    assert last[found["presets"]["best"]]["values"]["brightness"]["value"] == least
    with (run / "tune" / "tune.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    assert (run / "tune" / "tune.png").read_bytes()[:4] == b"\x89PNG" and "| settings |" in (
        run / "tune" / "tune.md"
    ).read_text()

    stored = presets.read(model, Catalog.discover())
    assert artifacts.sha256(model) == before and list(stored) == ["fast", "balanced", "best"]
    assert stored["best"].settings == last[found["presets"]["best"]]["settings"]
    measured = stored["fast"].measured
    assert measured is not None and measured.images == 8 and measured.values[0].low is not None
    assert measured.seconds_low is not None and measured.seconds_low <= measured.seconds
    out = str(tmp_path / "out")
    assert main(["sample", str(run), "--class", "1", "--preset", "best", "--images", "1", "--out", out]) == 0
    about = png_metadata(storage.read_bytes(f"{out}/0000-seed0.png"))
    assert about["preset"] == "best" and int(about["steps"]) == stored["best"].settings["sample"]["steps"]
    capsys.readouterr()
    words = ["evaluate", str(run), "--metrics", "brightness", "--images", "8", "--preset", "best", "--json", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "evaluation")]) == 0
    again = json.loads(capsys.readouterr().out)["metrics"][0]["values"]["brightness"]["value"]
    assert again == least

    assert main(["tune", str(run), *CALL, "--seconds", "1e-9"]) == 2
    assert "--seconds: none of 5 candidates makes a picture in 1e-09 s" in capsys.readouterr().err
    assert presets.read(model, Catalog.discover()) == stored


def test_a_place_that_is_not_written_to_is_said_before_anything_is_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> Any:
        raise StorageError("cannot write it: Read-only file system")

    monkeypatch.setattr("ldm_core.training.folder.lock.Lock.take", refused)
    assert main(["tune", str(run), *CALL]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its weights take no presets" in said and "Read-only file system" in said and "--no-presets" in said
    assert not (run / "tune").exists()


def test_bench_measures_a_preset(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sampler, guidance and cache over all of its steps, at its precision."""
    monkeypatch.setitem(SIZES, "cpu", (64, 128))  # of the products for the machine's peak
    catalog = Catalog.discover()
    settings = {
        "guidance": {"use": "cfg", "scale": 1.5},
        "adapters": [{"use": "deep_cache", "interval": 2}],
        "sample": {"steps": 5},
    }
    made = {"fast": presets.Preset(settings=settings, precision="bf16")}
    presets.write(str(run / "model.safetensors"), made, catalog)
    line = ["bench", str(run), "--only", "step", "--quick", "--no-memory", "--batch", "1", "--rounds", "1", "--json"]
    assert main([*line, "--preset", "fast"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["sampler_steps"] == 5 and [row["precision"] for row in told["rows"]] == ["bf16"]
    assert told["recipe"]["adapters"][0]["use"] == "deep_cache" and told["recipe"]["guidance"]["scale"] == 1.5
    cached = told["rows"][0]["flops"]
    assert main([*line, "--precision", "bf16", "guidance.scale=1.5", "sample.steps=5"]) == 0
    plain = json.loads(capsys.readouterr().out)["rows"][0]["flops"]
    assert cached < plain, "the cache leaves nothing out"
    assert main([*line, "--preset", "fats"]) == 2
    assert "fats" in (said := capsys.readouterr().err) and "they have fast" in " ".join(said.split())
    assert main([*line, "--preset", "fast", "guidance.scale=2"]) == 2
    assert "no trained weights of its own recipe" in " ".join(capsys.readouterr().err.split())
