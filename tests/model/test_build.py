"""Building: first weights are a function of the recipe's seed alone; what is frozen; what does not fit a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from ldm_core import Component, hookimpl
from ldm_core.catalog import Catalog
from ldm_core.contracts import LatentSpec
from ldm_core.errors import CheckpointError, ComponentError
from ldm_core.model import fill
from ldm_core.model.build import make_first_stage, make_model, make_objective, make_sampling, sampling_site
from ldm_core.model.fill import load_weights, seeded
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve

SMALL: dict[str, Any] = {
    "image_size": 32,
    "scale": "small",
    "first_stage": {"use": "vq_f4", "channels": 16, "norm_groups": 8, "codebook_size": 64},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "conditioners": [
        {"use": "class_label", "classes": 4, "width": 16},
        {"use": "class_label", "name": "kind", "classes": 3, "width": 16, "train": False},
    ],
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def small(catalog: Catalog, **changes: Any) -> Recipe:
    return resolve({**SMALL, **changes}, catalog)


def weights(recipe: Recipe, catalog: Catalog) -> dict[str, Tensor]:
    stage: Any = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    return {
        **{f"stage.{k}": v.clone() for k, v in stage.state_dict().items()},
        **{f"model.{k}": v.clone() for k, v in model.state_dict().items()},
    }


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])}


def test_first_weights_depend_on_the_seed_alone(catalog: Catalog) -> None:
    torch.manual_seed(1)
    first = weights(small(catalog), catalog)
    torch.manual_seed(2)
    torch.randn(100)
    assert different(first, weights(small(catalog), catalog)) == set()
    other = different(first, weights(small(catalog, seed=1), catalog))
    assert "model.denoiser.input_blocks.0.0.weight" in other and "model.conditioners.kind.embedding.weight" in other
    assert any(k.startswith("stage.") for k in other)


def test_a_part_keeps_its_weights_when_another_part_changes(catalog: Catalog) -> None:
    """Each part draws from a stream of its own: adding a conditioner does not reshuffle the first stage."""
    first = weights(small(catalog), catalog)
    fewer = weights(small(catalog, conditioners=SMALL["conditioners"][:1]), catalog)
    assert all(k.startswith("model.conditioners.kind.") for k in different(first, fewer))
    a, b = (first[f"model.conditioners.{n}.embedding.weight"] for n in ("class_label", "kind"))
    assert not torch.equal(a[:3], b[:3]), "two conditioners of one sort, and the same numbers in both"


def test_building_leaves_the_global_generator_where_it_was(catalog: Catalog) -> None:
    recipe = small(catalog)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    site = sampling_site(recipe, stage)
    make_objective(recipe, catalog, site)
    make_sampling(recipe, catalog, site)
    assert model is not None and torch.equal(torch.randn(3), expected)


def test_seeded_puts_the_generator_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3):
        torch.randn(2)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", [False, True])
def test_seeded_draws_as_after_torchs_own_seed(device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device is seeded where there is one; its lack spares the call, not the numbers."""
    told: list[int] = []
    true = torch.manual_seed

    def tell(seed: int) -> torch.Generator:
        told.append(seed)
        return true(seed)

    monkeypatch.setattr(fill, "_accelerated", lambda: device)
    monkeypatch.setattr(torch, "manual_seed", tell)
    with seeded(3):
        drawn = torch.randn(20), torch.randperm(5)
    assert told == ([3] if device else [])
    true(3)
    assert torch.equal(drawn[0], torch.randn(20)) and torch.equal(drawn[1], torch.randperm(5))


def test_frozen_conditioners_have_no_gradients(catalog: Catalog) -> None:
    recipe = small(catalog)
    model = make_model(recipe, catalog, make_first_stage(recipe, catalog))
    assert all(p.requires_grad for p in model.conditioners["class_label"].parameters())
    assert not any(p.requires_grad for p in model.conditioners["kind"].parameters())
    assert all(p.requires_grad for p in model.denoiser.parameters())  # type: ignore[attr-defined]


def test_the_site_encodes_and_decodes_as_the_first_stage_does(catalog: Catalog) -> None:
    recipe = small(catalog)
    stage: Any = make_first_stage(recipe, catalog)
    site = sampling_site(recipe, stage)
    assert site.latent == LatentSpec(3, (4, 4)) and site.cond.crossattn == 16
    assert site.encode is not None and site.decode is not None
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    z = site.encode(x)
    assert z.shape == (2, 3, 8, 8) and not z.requires_grad
    assert torch.equal(z, stage.latents(stage.encode_moments(x)))
    assert torch.equal(site.decode(z), stage.decode(z))


def test_the_first_stage_is_no_part_of_the_model(catalog: Catalog) -> None:
    recipe = small(catalog)
    stage: Any = make_first_stage(recipe, catalog)
    own = {id(p) for p in stage.parameters()}
    assert not own & {id(p) for p in make_model(recipe, catalog, stage).parameters()}


def test_weights_of_another_architecture_are_refused_with_what_differs() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = {k: v.clone() for k, v in module.state_dict().items()}
    load_weights(module, good, "file")
    with pytest.raises(CheckpointError, match=r"file: .*another architecture: 1 missing \(e.g. 1.bias\)"):
        load_weights(module, {k: v for k, v in good.items() if k != "1.bias"}, "file")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(e.g. 2.weight\)"):
        load_weights(module, {**good, "2.weight": torch.zeros(1)}, "file")
    with pytest.raises(CheckpointError, match=r"1 of another shape \(e.g. 0.weight \(3, 9\) for \(3, 2\)\)"):
        load_weights(module, {**good, "0.weight": torch.zeros(3, 9)}, "file")
    assert all(torch.equal(v, good[k]) for k, v in module.state_dict().items()), "a refused file changed nothing"


# ------------------------------------------------------------------------------------- plugins that are at fault


@attrs.frozen(kw_only=True)
class LyingConfig:
    """A config whose `latent` is not what its factory builds."""

    latent: LatentSpec = attrs.field(factory=lambda: LatentSpec(4, (2, 2)))


class Incomplete(nn.Module):
    """A first stage without methods."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__()
        self.latent = config.latent


class Lying(Incomplete):
    """A first stage of other latents than its config says."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.latent = LatentSpec(4, (8, 8))

    def _same(self, x: Tensor, **_: Any) -> Tensor:
        return x

    encode_moments = latents = decode = project = set_normalization = _same


def faulty(factory: Callable[..., Any] | str) -> Catalog:
    """The catalog, with a first stage `lying` that `factory` builds."""
    catalog = Catalog.discover()
    path = factory if isinstance(factory, str) else f"{__name__}:{factory.__name__}"
    component = Component(kind="first_stage", name="lying", config=LyingConfig, factory=path, summary="at fault")
    catalog.register(SimpleNamespace(ldm_components=hookimpl(lambda: [component])), "lying", "ldm-plugin-lying", "1")
    return catalog


def built(catalog: Catalog) -> Any:
    return make_first_stage(resolve({"first_stage": "lying", "image_size": 32}, catalog), catalog)


def test_a_plugin_at_fault_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(**globals()))
    with pytest.raises(ComponentError, match="'lying' does not meet the contract FirstStage: it lacks decode"):
        built(faulty(Incomplete))
    with pytest.raises(ComponentError, match=r"'lying' says LatentSpec.* its plugin is at fault"):
        built(faulty(Lying))
    with pytest.raises(ComponentError, match="first_stage 'lying' of ldm-plugin-lying does not import: ModuleNotFound"):
        built(faulty("ldm_no_such_package.model:Stage"))
    (tmp_path / "ldm_breaks_at_import.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ComponentError, match="does not import: RuntimeError: built for another torch"):
        built(faulty("ldm_breaks_at_import:Stage"))
    with pytest.raises(ComponentError, match="does not import: AttributeError"):
        built(faulty("ldm_core.sampling.run:no_such_thing"))
