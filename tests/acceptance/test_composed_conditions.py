"""Two conditions at once: each with its own dropout in training, and its own scale in sampling, from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from one_thread import each_module as _one_thread  # noqa: F401
from training_runs import TINY

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import make_predict
from ldm_core.recipe.check import check
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import conditions_of

ROOT = Path(__file__).parents[2]
CLASS_AND_MAP: dict[str, Any] = {
    **TINY,
    "conditioners": [
        {"use": "class_label", "name": "kind", "width": 8, "dropout": 0.4},
        {"use": "semantic_map", "name": "layout", "dropout": 0.2},
    ],
    "guidance": {"use": "cfg", "scale": 1.0, "scales": {"kind": 2.0, "layout": 3.0}},
    "trainer": {**TINY["trainer"], "steps": 3, "joint_dropout": 0.1},
}


def a_map() -> Any:
    found = np.zeros((16, 16), dtype=np.int64)
    found[4:12, 4:12] = 1
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(CLASS_AND_MAP))
    words = ["train", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]
    assert main(words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def pipeline(run: Path) -> Pipeline:
    return ldm_core.load(str(run), device="cpu")


def test_each_condition_is_dropped_at_its_own_rate(pipeline: Pipeline) -> None:
    count = 4000
    model, rates = pipeline.model, {"kind": 0.4, "layout": 0.2}
    batch = {
        "class_label": torch.ones(count, dtype=torch.int64),
        "segmentation": torch.from_numpy(a_map()).expand(count, -1, -1),
    }
    whole = model.encode(batch)
    nulls = model.nulls(whole)
    with torch.no_grad():
        kept = model.kept(whole, rates, 0.1, Streams(list(range(count))))
    assert kept.crossattn is not None and kept.concat is not None
    vector, concat = whole["kind"].crossattn, whole["layout"].concat
    null_vector, null_concat = nulls["kind"].crossattn, nulls["layout"].concat
    assert vector is not None and concat is not None and null_vector is not None and null_concat is not None
    no_kind = (kept.crossattn - null_vector).abs().flatten(1).sum(1) < (kept.crossattn - vector).abs().flatten(1).sum(1)
    no_map = (kept.concat - null_concat).abs().flatten(1).sum(1) < (kept.concat - concat).abs().flatten(1).sum(1)
    for found, want in (
        (no_kind, 0.1 + 0.9 * 0.4),
        (no_map, 0.1 + 0.9 * 0.2),
        (no_kind & no_map, 0.1 + 0.9 * 0.4 * 0.2),
    ):
        assert abs(float(found.float().mean()) - want) < 0.03


def test_each_condition_has_its_own_scale(pipeline: Pipeline) -> None:
    """x0 = none + s_kind (kind - none) + s_layout (both - kind), from the recipe and from a setting."""
    model = pipeline.model
    batch = {"class_label": torch.tensor([1]), "segmentation": torch.from_numpy(a_map())[None]}
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500.0], dtype=torch.float64)
    with torch.no_grad():
        conditions = conditions_of(model, batch)
        none, kind, both = (model(x, t, conditions.pick(names)).x0 for names in ((), ("kind",), ("kind", "layout")))
        for settings, scales in (([], (2.0, 3.0)), (["guidance.scales.kind=4"], (4.0, 3.0))):
            chosen = pipeline.with_settings(settings) if settings else pipeline
            guidance = chosen._parts(chosen.recipe).guidance
            found = guidance.guide(make_predict(model), x, t, conditions, model.schedule).x0
            want = none + scales[0] * (kind - none) + scales[1] * (both - kind)
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_threads_with_other_scales_do_not_meet(pipeline: Pipeline) -> None:
    inputs = {"class_label": 1, "segmentation": a_map()}
    chosen = [pipeline.with_settings([f"guidance.scales.layout={scale}"]) for scale in (1.5, 6)]

    def draw(one: Pipeline) -> Any:
        return one.sample(inputs=inputs, seed=[3], steps=4)[0].image

    alone = [draw(one) for one in chosen]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(draw, chosen))
    assert all(np.array_equal(a, b) for a, b in zip(alone, found, strict=True))
    assert not np.array_equal(*alone)


def test_on_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "map.npy", a_map())
    words = ["sample", str(run), "--class", "1", "--input", f"segmentation=@{tmp_path / 'map.npy'}", "--quiet"]
    assert main([*words, "--images", "1", "--out", str(tmp_path / "a"), "guidance.scales.kind=3"]) == 0
    assert main([*words, "guidance.scales.text=3"]) == 2
    error = capsys.readouterr().err
    assert "guidance 'cfg' names conditioner 'text', which the recipe does not have" in error


def test_the_example_fits_together() -> None:
    plain: Mapping[str, Any] = yaml.safe_load((ROOT / "examples/composed_conditions/recipe.yaml").read_text())
    catalog = Catalog.discover()
    recipe = resolve(plain, catalog)
    check(recipe)
    assert {part.name: part.dropout for part in recipe.conditioners} == {"text": 0.3, "layout": 0.3}
