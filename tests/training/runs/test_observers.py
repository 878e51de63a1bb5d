"""Observers: those that a recipe names are told of the run, and only for its length; installed ones are not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import attrs
from training_runs import TINY

from ldm_core.builtin import plugin as builtin
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts import Site
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training import workflow

TOLD: list[tuple[str, Any]] = []


@attrs.frozen
class DiaryConfig:
    """Options of the test's observer."""

    title: str = "diary"


class Diary:
    """Writes down what it is told."""

    def __init__(self, config: DiaryConfig, site: Site) -> None:
        self._title = config.title

    @hookimpl
    def ldm_run_start(self, recipe: dict[str, Any], out: str) -> None:
        TOLD.append((self._title, out))

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        TOLD.append((self._title, status))


class DiaryPlugin:
    """A plugin that brings it."""

    @staticmethod
    @hookimpl
    def ldm_components() -> list[Component]:
        factory = f"{__name__}:Diary"
        return [Component(kind="observer", name="diary", config=DiaryConfig, factory=factory, summary="a diary")]


def _run(folder: Path, observers: list[Any]) -> Catalog:
    catalog = Catalog()
    catalog.register(builtin, "builtin")
    catalog.register(DiaryPlugin, "diary")
    plain = {"image_size": 16, "scale": "small", "dataset": {"use": "shapes", "scenes": 4}, "observers": observers}
    recipe, info = workflow.prepare(plain, catalog)
    workflow.run(recipe, info, catalog, str(folder), stages=())
    return catalog


def test_a_named_observer_is_told(tmp_path: Path) -> None:
    TOLD.clear()
    catalog = _run(tmp_path / "named", [{"use": "diary", "title": "mine"}, "diary"])
    out = str(tmp_path / "named")
    assert sorted(TOLD) == sorted([("mine", out), ("diary", out), ("mine", "done"), ("diary", "done")])
    # afterwards the same catalog is silent
    catalog.manager.hook.ldm_run_end(status="done")
    assert len(TOLD) == 4


def test_an_installed_observer_that_is_not_named_is_silent(tmp_path: Path) -> None:
    TOLD.clear()
    _run(tmp_path / "silent", [])
    assert TOLD == []


def test_a_model_loads_where_its_observers_are_not_installed(tmp_path: Path) -> None:
    """They are in the run's recipe.yaml, but not in what travels: weights and pictures."""
    catalog = Catalog.discover()
    catalog.register(DiaryPlugin, "diary", "ldm-plugin-diary", "1.0")
    recipe, info = workflow.prepare({**TINY, "observers": [{"use": "diary", "title": "a secret"}]}, catalog)
    workflow.run(recipe, info, catalog, str(tmp_path))
    assert "a secret" in (tmp_path / "recipe.yaml").read_text()
    assert b"a secret" not in (tmp_path / "samples" / "0000.png").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = Pipeline.load(str(tmp_path), device="cpu", catalog=Catalog.discover())
    assert pipeline.recipe.identity() == recipe.identity()
