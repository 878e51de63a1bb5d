"""Adapters chosen in sampling: their names and places, the room that each may take, the arithmetic that they allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from assembled import BASE, assembled
from safetensors.torch import load_file, save_file

from ldm_core.catalog import Catalog, Component
from ldm_core.config.structure import unstructure
from ldm_core.contracts import Precision
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.precision import settle
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.base import randomize

pytest.importorskip(
    "ldm_contract_plugin", reason="these tests need the test plugin: pip install ./tests/contract_plugin"
)
from ldm_contract_plugin.config import LoRAConfig
from ldm_contract_plugin.lora import LoRA

PLAIN = {**BASE, "first_stage": "identity"}
HUGE = 1 << 20
"""A rank whose matrices would take gigabytes."""


@attrs.frozen(kw_only=True)
class FullConfig(LoRAConfig):
    """LoRA for float32 alone."""

    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)


@attrs.frozen(kw_only=True)
class HalfConfig(LoRAConfig):
    """LoRA for bfloat16 alone."""

    precisions: ClassVar[tuple[Precision, ...]] = ("bf16",)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    catalog = Catalog.discover()
    for name, config in (("full_lora", FullConfig), ("half_lora", HalfConfig)):
        catalog.register(Component(kind="adapter", name=name, config=config, factory=LoRA, summary="of one precision"))
    return catalog


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Iterator[dict[str, str]]:
    """Adapters of random weights, by the name of their component; `other` is a second lora."""
    made = {}
    for i, (name, use) in enumerate(
        (("lora", "lora"), ("other", "lora"), ("full", "full_lora"), ("half", "half_lora"))
    ):
        recipe = resolve({**PLAIN, "adapters": [use]}, catalog)
        adapter = model_of(recipe, catalog).adapters["0"]
        randomize(adapter, i)
        made[name] = str(tmp_path_factory.mktemp("files") / f"{name}.safetensors")
        save(made[name], adapter.state_dict(), use, recipe.adapters[0].config)
    yield made


def save(file: str, tensors: dict[str, torch.Tensor], use: str, config: object) -> None:
    save_file(dict(tensors), file, metadata=artifacts.metadata("adapter", use, unstructure(config), {}))


def model_of(recipe: Recipe, catalog: Catalog) -> Any:
    return make_model(recipe, catalog, make_first_stage(recipe, catalog))


def pipeline_of(catalog: Catalog, precision: Precision = "fp32") -> Pipeline:
    made = assembled()
    settle(made.model, precision)
    return Pipeline(made.recipe, made.stage, made.model, catalog)


def weights_of(pipeline: Pipeline, name: str) -> dict[str, torch.Tensor]:
    (part,) = (part for part in pipeline.recipe.adapters if part.name == name)
    adapter: Any = pipeline.model.attached[part.key]
    return dict(adapter.state_dict())


def same(pipeline: Pipeline, name: str, file: str) -> bool:
    mine, stored = weights_of(pipeline, name), load_file(file)
    return mine.keys() == stored.keys() and all(torch.equal(mine[key], value) for key, value in stored.items())


# ------------------------------------------------------------------------------------------------------- names, places


def test_a_list_adds_to_those_that_stay(catalog: Catalog, files: dict[str, str]) -> None:
    one = pipeline_of(catalog).with_settings({"adapters": [files["lora"]]})
    both = one.with_settings({"adapters": ["lora", files["other"]]})
    assert [part.name for part in both.recipe.adapters] == ["lora", "lora_2"] and len(both.model.attached) == 2
    assert same(both, "lora", files["lora"]) and same(both, "lora_2", files["other"])
    first = one.with_settings({"adapters": [files["other"], "lora"]})
    assert [part.name for part in first.recipe.adapters] == ["lora_2", "lora"] and len(first.model.attached) == 2
    assert same(first, "lora", files["lora"]) and same(first, "lora_2", files["other"])
    last = both.with_settings({"adapters": ["lora_2", {"weights": files["full"]}]})
    assert [part.name for part in last.recipe.adapters] == ["lora_2", "full_lora"]
    assert same(last, "lora_2", files["other"]) and same(last, "full_lora", files["full"])


def test_a_name_that_stays_is_not_given_again(catalog: Catalog, files: dict[str, str]) -> None:
    one = pipeline_of(catalog).with_settings({"adapters": [files["lora"]]})
    for rows in (["lora", {"weights": files["other"], "name": "lora"}], ["lora", "lora"]):
        with pytest.raises(ConfigError, match="adapters: two are named 'lora'; give one of them another name"):
            one.with_settings({"adapters": rows})


# --------------------------------------------------------------------------------------------------------------- room


def test_each_adapter_is_held_to_its_own_file(catalog: Catalog, files: dict[str, str], tmp_path: Path) -> None:
    wide = {"use": "lora", "rank": 1 << 14}
    recipe = resolve({**PLAIN, "adapters": {"style": {"weights": files["lora"]}, "wide": wide}}, catalog)
    model = model_of(recipe, catalog)
    kept = model.adapters["style"].state_dict()
    assert all(torch.equal(kept[key], value) for key, value in load_file(files["lora"]).items())
    assert sum(each.numel() for each in model.adapters["wide"].parameters()) > HUGE
    hostile = str(tmp_path / "hostile.safetensors")
    save(hostile, load_file(files["lora"]), "lora", LoRAConfig(rank=HUGE))
    recipe = resolve({**PLAIN, "adapters": {"style": {"weights": hostile}, "wide": wide}}, catalog)
    with pytest.raises(CheckpointError, match=r"hostile\.safetensors: these weights are of another architecture"):
        model_of(recipe, catalog)


# ---------------------------------------------------------------------------------------------------------- arithmetic


def test_an_adapter_is_not_sampled_in_what_it_does_not_allow(catalog: Catalog, files: dict[str, str]) -> None:
    full, half = ({"adapters": {"style": {"weights": files[name]}}} for name in ("full", "half"))
    refused = r"`precision`: {}, and adapter 'style' \('{}' of .*\) runs in {} alone; give one of these"
    with pytest.raises(ConfigError, match=refused.format("bf16", "full_lora", "fp32")):
        pipeline_of(catalog, "bf16").with_settings(full)
    with pytest.raises(ConfigError, match=refused.format("fp32", "half_lora", "bf16")):
        pipeline_of(catalog).with_settings(half)
    added = pipeline_of(catalog).with_settings(full)
    key = f"adapters.{added.recipe.adapters[0].key}"
    assert added.model.allowed(key) == ("fp32",) and added.model.precision == "fp32"
    plain = added.with_settings({"adapters": {"style": {"weights": files["lora"]}}})
    assert set(plain.model.allowed(key)) == {"fp32", "bf16", "fp16"}, "those of the recipe that it is of"
    assert set(added.model.beside({}).precisions) == {"denoiser", "first_stage", "conditioners.class_label"}


def test_a_model_with_adapters_runs_in_what_all_allow(catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match=r"`precision`: bf16, and adapter 'full_lora' .* runs in fp32 alone"):
        settle(model_of(resolve({**PLAIN, "adapters": ["full_lora"]}, catalog), catalog), "bf16")
    half = model_of(resolve({**PLAIN, "adapters": ["half_lora"]}, catalog), catalog)
    settle(half)
    assert half.precision == "bf16", "it cannot run in float32"
    with pytest.raises(ConfigError, match=r"none in common .*'full_lora' .* in fp32; .*'half_lora' .* in bf16\)"):
        settle(model_of(resolve({**PLAIN, "adapters": ["full_lora", "half_lora"]}, catalog), catalog))
