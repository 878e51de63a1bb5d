"""Recipes as values: from a mapping, a file, a shipped one; changed part by part; complete and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import TINY

from ldm_core import Recipe
from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError, LDMError
from ldm_core.recipe import shipped
from ldm_core.recipe.resolve import resolve

BASE: dict[str, Any] = {
    "first_stage": {"use": "vq_f4", "channels": 16},
    "denoiser": "unet",
    "conditioners": [{"use": "text", "dropout": 0.1}],
    "trainer": {"steps": 10, "lr": 1e-3},
}


def test_values_are_the_callers_own(tmp_path: Path) -> None:
    recipe = Recipe(BASE)
    recipe.values()["trainer"]["steps"] = 99
    BASE["trainer"]["lr"] = 1e-3
    assert recipe.values() == BASE and recipe == Recipe.of(BASE) and Recipe.of(recipe) is recipe
    recipe.save(tmp_path / "mine.yaml")
    assert Recipe.read(tmp_path / "mine.yaml") == recipe == Recipe.of(str(tmp_path / "mine.yaml"))
    assert Recipe.of(None) == Recipe.read("laptop")
    with pytest.raises(LDMError, match="no recipe named 'lapto'; did you mean 'laptop'"):
        Recipe.read("lapto")
    with pytest.raises(ConfigError, match="recipe: expected a mapping"):
        Recipe.of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "parts", "key", "expected"),
    [
        ((), {"trainer": {"steps": 20}}, "trainer", {"steps": 20, "lr": 1e-3}),
        (("trainer.steps=20",), {}, "trainer", {"steps": 20, "lr": 1e-3}),
        ((), {"first_stage": "vq_f4"}, "first_stage", {"use": "vq_f4", "channels": 16}),
        ((), {"first_stage": "kl_f8"}, "first_stage", "kl_f8"),
        ((), {"first_stage": {"use": "kl_f8", "channels": 8}}, "first_stage", {"use": "kl_f8", "channels": 8}),
        (
            (),
            {"first_stage": {"codebook_size": 8}},
            "first_stage",
            {"use": "vq_f4", "channels": 16, "codebook_size": 8},
        ),
        ((), {"denoiser": {"channels": 8}}, "denoiser", {"use": "unet", "channels": 8}),
        (("denoiser.heads=2",), {"denoiser": {"channels": 8}}, "denoiser", {"use": "unet", "channels": 8, "heads": 2}),
        ((), {"conditioners": ["class_label"]}, "conditioners", ["class_label"]),
        ((), {"sample": {"steps": 5}}, "sample", {"steps": 5}),
        ((), {"dataset": [{"use": "shapes"}]}, "dataset", [{"use": "shapes"}]),
        ((), {"seed": 3}, "seed", 3),
    ],
)
def test_parts_and_lines_go_on_top(lines: tuple[str, ...], parts: dict[str, Any], key: str, expected: Any) -> None:
    recipe = Recipe(BASE)
    changed = recipe.changed(*lines, **parts)
    assert changed.values()[key] == expected and recipe.values() == BASE
    assert {k: v for k, v in changed.values().items() if k != key} == {k: v for k, v in BASE.items() if k != key}


def test_the_default_recipe_has_what_is_installed() -> None:
    """Observers by their descriptors; and a stage without a training asks for no objective that is not installed."""
    whole, core = Catalog.discover(), Catalog.discover([])
    laptop = Recipe.read("laptop").values()
    assert shipped.default(whole) == {**laptop, "observers": [{"use": "curves"}, {"use": "report"}]}
    assert shipped.default(core) == {**laptop, "observers": []}
    for stage, catalog, stays in (("vq_f4", whole, True), ("identity", whole, True), ("identity", core, False)):
        suited = shipped.suited(shipped.default(catalog), stage, catalog)
        assert ("stage_objective" in suited) is stays
        assert suited.keys() | {"stage_objective"} == {*laptop, "observers"}
    for other in ("runs/mine", {"weights": "runs/mine"}, {"use": "vq_f4", "channels": 8}, None):
        assert shipped.suited(laptop, other, whole) == laptop


def test_a_complete_recipe_has_every_field_and_is_checked() -> None:
    whole = Recipe(TINY).complete()
    assert whole.values() == resolve(TINY, Catalog.discover()).plain() and whole.complete() == whole
    assert Recipe.of(resolve(TINY, Catalog.discover())) == whole
    with pytest.raises(ConfigError) as told:
        Recipe(TINY).changed("trainer.stepz=3", "denoiser.channelz=3").complete()
    assert len(told.value.problems) == 2
