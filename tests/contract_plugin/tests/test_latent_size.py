"""Parts that know the size of the latents: a schedule and a time grid by it, and a network that has a largest one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ldm_contract_plugin.optional.resolution_flow import ResolutionFlow
from one_thread import each_test as _one_thread  # noqa: F401
from picture_folders import pictures
from together import together
from training_runs import TINY, go, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import draw_times
from ldm_core.errors import ConfigError, ContractError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.check import check
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pipeline import Pipeline

SIZED: dict[str, Any] = {
    "schedule": {"use": "resolution_flow", "base_cells": 256},
    "time_grid": {"use": "shifted", "shift": 1.0, "base_cells": 256},
    "sampler": "euler",
}


@pytest.fixture()
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes that the schedule was handed, in turn."""
    seen: list[Any] = []
    plain = ResolutionFlow.draw

    def draw(self: ResolutionFlow, u: torch.Tensor, *, shape: Any = None) -> torch.Tensor:
        seen.append(shape)
        return plain(self, u, shape=shape)

    monkeypatch.setattr(ResolutionFlow, "draw", draw)
    return seen


@pytest.fixture()
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes that the time grid was handed, in turn."""
    seen: list[Any] = []
    grid: Any = Catalog.discover().get("time_grid", "shifted")[0].component.load()
    plain = grid.times

    def times(self: Any, schedule: Any, steps: int, *, shape: Any = None) -> torch.Tensor:
        seen.append(shape)
        return plain(self, schedule, steps, shape=shape)

    monkeypatch.setattr(grid, "times", times)
    return seen


def test_training_hands_the_size_of_each_bucket(tmp_path: Path, told: list[Any]) -> None:
    few = {**TINY["trainer"], "validate_images": 4}
    changes = {**SIZED, "dataset": pictures(tmp_path / "data"), "data": {"buckets": [[16, 32]]}, "trainer": few}
    watch = go(tmp_path / "run", stages=("first_stage", "latents", "denoiser"), **changes)
    assert len(watch.losses["denoiser"]) == 8
    assert set(told) == {(3, 16, 16), (3, 16, 32)}, "None: a caller drew without the size"


def test_noise_grows_with_the_latents() -> None:
    schedule = Catalog.discover().get("schedule", "resolution_flow")[0].component
    made = schedule.load()(schedule.config(base_cells=64), None)
    u = torch.rand(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, small, large = (draw_times(made, u, s) for s in (None, (4, 8, 8), (4, 16, 16)))
    assert torch.equal(plain, small), "at the base size times are left as they are"
    torch.testing.assert_close(large, 2 * plain / (1 + plain))


def test_sampling_hands_the_size_of_the_request(tmp_path: Path, asked: list[Any]) -> None:
    """By the command line, from Python, and from two threads at once: equal seeds, equal pictures."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, **SIZED, "trainer": {**TINY["trainer"], "steps": 2}}))
    out = tmp_path / "run"
    assert main(["--recipe", str(recipe), "--out", str(out)]) == 0
    assert main(["sample", str(out), "--images", "2", "--seed", "5", "--out", str(tmp_path / "small")]) == 0
    assert main(["sample", str(out), "image_size=32", "--images", "1", "--out", str(tmp_path / "large")]) == 0

    pipeline = ldm_core.load(str(out), device="cpu")
    asked.clear()
    alone = pipeline.sample(images=2, seed=5, steps=3)
    assert set(asked) == {(3, 16, 16)}
    for made in together([lambda: pipeline.sample(images=2, seed=5, steps=3)] * 2):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(alone, made, strict=True))
    assert weights(out).keys() == pipeline.model.state_dict().keys()


@pytest.mark.parametrize(("size", "shift"), [(16, 1.0), (32, 2.0)])  # 2: the root of four times the cells
def test_an_image_to_image_run_begins_at_the_shifted_level(size: int, shift: float, asked: list[Any]) -> None:
    catalog = Catalog.discover()
    recipe = resolve({**TINY, **SIZED, "image_size": size}, catalog)
    stage = make_first_stage(recipe, catalog)
    pipeline = Pipeline(recipe, stage, make_model(recipe, catalog, stage), catalog)
    start = Start.image(np.zeros((3, size, size), dtype=np.uint8), strength=0.5)
    level = shift * 0.5 / (1 + (shift - 1) * 0.5)
    with pipeline.begin(images=1, seed=5, steps=4, start=start) as run:
        assert run.x.shape == (1, 3, size, size)
        assert len(run.times) == 3 and math.isclose(float(run.times[0]), level, rel_tol=1e-9)
        noise = (run.x - (1 - level) * -1.0) / level  # a black picture is -1, noised along the straight path
        assert abs(float(noise.mean())) < 0.15 and abs(float(noise.std()) - 1) < 0.15
    (made,) = pipeline.sample(images=1, seed=5, steps=4, start=start)
    assert made.image.shape == (3, size, size) and set(asked) == {(3, size, size)}


def test_a_part_that_forgets_its_config_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog.discover()
    recipe = resolve({**TINY, **SIZED}, catalog)
    monkeypatch.setattr(ResolutionFlow, "__init__", lambda self, config, site: None)
    with pytest.raises(ContractError, match=r"schedule 'resolution_flow'.*config is not kept"):
        make_model(recipe, catalog, make_first_stage(recipe, catalog))


TABLE: dict[str, Any] = {"denoiser": {"use": "position_table", "rows": 24, "width": 8}}


def test_images_and_buckets_beyond_the_table_are_refused() -> None:
    catalog = Catalog.discover()
    check(resolve({**TINY, **TABLE}, catalog))
    check(resolve({**TINY, **TABLE, "data": {"buckets": [[16, 24]]}}, catalog))
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, **TABLE, "image_size": [16, 32]}, catalog))
    assert str(caught.value) == (
        "image_size: its latents of [16, 32] are larger than denoiser 'position_table' takes, [24, 24] at most; give "
        "[24, 24] or smaller, or choose a denoiser for larger ones"
    )
    with pytest.raises(ConfigError, match=r"data.buckets\[0\] \[16, 32\]: its latents of \[16, 32\] are larger than"):
        check(resolve({**TINY, **TABLE, "data": {"buckets": [[16, 32]]}}, catalog))


def test_a_table_is_trained_at_two_sizes_and_sampled_up_to_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    plain = {**TINY, **TABLE, "data": {"buckets": [[16, 24]]}}
    recipe.write_text(yaml.safe_dump({**plain, "trainer": {**TINY["trainer"], "steps": 4}}))
    out = str(tmp_path / "run")
    assert main(["--recipe", str(recipe), "--out", out]) == 0
    assert main(["sample", out, "image_size=24", "--images", "1", "--steps", "2", "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    assert main(["sample", out, "image_size=32", "--images", "1", "--out", str(tmp_path / "b")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "its latents of [32, 32] are larger than denoiser 'position_table' takes, [24, 24] at most" in told
    pipeline = ldm_core.load(out, device="cpu")
    assert pipeline.sample(images=1, steps=2)[0].image.shape == (3, 16, 16)
