"""Parts that the core has never heard of, installed beside it: they are checked, trained, sampled and adapted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import load_file

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.model.build import make_first_stage, make_model, make_objective, sampling_site
from ldm_core.model.diffusion import Model
from ldm_core.recipe.check import check
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.base import randomize
from ldm_core.training import workflow

LATER: dict[str, Any] = {
    "image_size": [16, 24],
    "first_stage": "identity",
    "denoiser": {"use": "tiny_dit", "width": 16, "patch": 4},
    "schedule": "rectified_flow",
    "parameterization": "flow",
    "conditioners": [{"use": "two_set", "width": 8, "dropout": 0.3}],
    "sampler": "ddim",
    "guidance": {"use": "cfg", "scale": 2.0},
    "dataset": {"use": "shapes", "scenes": 12, "val_scenes": 4},
    "trainer": {"steps": 3, "images_per_step": 4, "lr": 0.02, "log_every": 1, "ema": 0.0},
    "sample": {"steps": 4, "images": 2},
}
ADAPTED: dict[str, Any] = {
    "image_size": 16,
    "denoiser": {
        "use": "unet",
        "channels": 16,
        "channel_mult": [1, 2],
        "res_blocks": 1,
        "attention": [2],
        "heads": 2,
        "norm_groups": 8,
    },
    "conditioners": [{"use": "class_label", "width": 8}],
    "dataset": {"use": "shapes", "scenes": 12, "val_scenes": 4},
    "adapters": [{"use": "lora", "rank": 2, "scale": 0.5}],
    # 4 steps: the U-Net's last layers start at zero, and gradients reach its attention from the third step on
    "trainer": {"steps": 4, "images_per_step": 4, "lr": 0.01, "log_every": 1},
    "sample": {"steps": 2, "images": 2},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    found = Catalog.discover()
    try:
        found.get("denoiser", "tiny_dit")
    except ComponentError as error:
        pytest.fail(f"these tests need the test plugin: pip install ./tests/contract_plugin ({error})")
    return found


@pytest.fixture(scope="module")
def later(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, workflow.RunResult]:
    recipe, info = workflow.prepare(LATER, catalog)
    return recipe, workflow.run(recipe, info, catalog, str(tmp_path_factory.mktemp("later")))


@pytest.fixture()
def adapted(catalog: Catalog) -> tuple[Recipe, Model, Any]:
    """A U-Net with a LoRA adapter attached, all its weights moved away from their first values."""
    recipe, _ = workflow.prepare(ADAPTED, catalog)
    model = make_model(recipe, catalog, make_first_stage(recipe, catalog))
    randomize(model, 3)
    return recipe, model.eval(), model.adapters["0"]


def test_flow_transformer_and_two_sets_train(later: tuple[Recipe, workflow.RunResult], catalog: Catalog) -> None:
    recipe, result = later
    assert result.status == "done"
    rows = [json.loads(line) for line in (Path(result.out) / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["stage"] == "denoiser"]
    assert len(losses) == 3 and np.isfinite(losses).all()
    trained = load_file(result.model)
    fresh = make_model(recipe, catalog, make_first_stage(recipe, catalog)).state_dict()
    assert trained.keys() == fresh.keys()
    still = [k for k in trained if torch.equal(trained[k], fresh[k])]
    assert not [k for k in still if k.startswith("denoiser.out.")], "the transformer's last layer did not train"
    assert "conditioners.two_set.of_class.weight" not in still, "the second set, in `extras`, did not train"


def test_flow_transformer_and_two_sets_sample(later: tuple[Recipe, workflow.RunResult]) -> None:
    pipeline = ldm_core.load(later[1].out, device="cpu")
    wanted = [{"caption": "a red circle", "class_label": 3}, {"caption": "a very long blue star", "class_label": 1}]
    for sampler in ("ddim", "ddpm"):
        both = pipeline.with_settings({"sampler": sampler}).sample(inputs=wanted, steps=3, seed=5)
        assert [s.image.shape for s in both] == [(3, 16, 24)] * 2
        alone = pipeline.with_settings({"sampler": sampler}).sample(inputs=wanted[1:], steps=3, seed=[6])[0]
        assert np.abs(both[1].image.astype(int) - alone.image.astype(int)).max() <= 1, sampler
    weak, strong = (pipeline.sample(inputs=wanted, steps=3, seed=5, guidance=g)[0].image for g in (1.0, 40.0))
    assert (weak != strong).any(), "guidance does not reach the transformer"
    second = [{**wanted[0], "class_label": 7}]
    with torch.no_grad():
        one, other = (
            Cond.merge(pipeline.model.encode(pipeline._batch(rows, pipeline.reads)).values())
            for rows in (wanted[:1], second)
        )
        one = one._replace(vector=other.vector)  # now they differ by the extra alone
        x, t = torch.zeros(1, 3, 16, 24), torch.tensor([0.5], dtype=torch.float64)
        far = (pipeline.model(x, t, one).x0 - pipeline.model(x, t, other).x0).abs().max()
    assert float(far) > 1e-6, "the extra does not reach the transformer"


def test_learned_variance_travels_beside_x0(catalog: Catalog) -> None:
    recipe = resolve(LATER, catalog)
    model = make_model(recipe, catalog, make_first_stage(recipe, catalog)).eval()
    conds = model.encode({"caption": ["a"], "class_label": torch.tensor([0])})
    estimate = model(torch.zeros(1, 3, 16, 24), torch.tensor([0.3]), Cond.merge(conds.values()))
    assert estimate.x0.shape == (1, 3, 16, 24)
    assert estimate.extra is not None and estimate.extra.shape == (1, 3, 16, 24)


def test_an_extra_that_nothing_takes_is_refused_by_name(catalog: Catalog) -> None:
    plain = {**LATER, "denoiser": {"use": "unet"}, "parameterization": "eps"}
    with pytest.raises(ConfigError) as caught:
        check(resolve(plain, catalog))
    text = str(caught.value)
    assert "conditioner 'two_set' writes the extra 'second_tokens'" in text
    assert "no denoiser, guidance, adapter or objective" in text and "drop 'two_set'" in text
    assert "parameterization 'eps' divides by alpha" in text and "'rectified_flow'; set parameterization=v" in text
    check(resolve(LATER, catalog))


def test_concat_is_refused_by_the_transformer(catalog: Catalog) -> None:
    plain = {**LATER, "conditioners": ["two_set", {"use": "semantic_map", "classes": 4}]}
    with pytest.raises(ConfigError, match="'semantic_map' writes 'concat' and denoiser 'tiny_dit' does not use it"):
        check(resolve(plain, catalog))


def test_an_attached_adapter_leaves_the_base_as_it_is(catalog: Catalog) -> None:
    recipe, _ = workflow.prepare(ADAPTED, catalog)
    bare, _ = workflow.prepare({**ADAPTED, "adapters": []}, catalog)
    adapted_model, plain = (make_model(r, catalog, make_first_stage(r, catalog)) for r in (recipe, bare))
    own = adapted_model.state_dict()
    base = {k: v for k, v in own.items() if not k.startswith("adapters.0.")}
    assert list(base) == list(plain.state_dict())
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in base.items())
    # 4 projections in each of 2 attentions, in each of the lowest level's 1 + 2 blocks and the middle
    assert len(own) - len(base) == 2 * 4 * 2 * 4
    again = make_model(recipe, catalog, make_first_stage(recipe, catalog)).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in own.items()), "an adapter's first weights depend on the seed alone"


def test_merged_weights_are_the_adapted_model(adapted: tuple[Recipe, Model, Any]) -> None:
    _, model, lora = adapted
    x, t, cond = torch.randn(2, 3, 16, 16), torch.tensor([300.0, 700.0]), Cond(crossattn=torch.randn(2, 1, 8))
    name = next(n for n in lora.up if n.endswith("attn1/to_q"))
    weight = model.state_dict()[f"denoiser.{name.replace('/', '.')}.weight"].clone()
    with torch.no_grad():
        attached = model(x, t, cond).x0
        merged = lora.merged(model)
        lora.detach()
        plain = model(x, t, cond).x0
        expected = weight + 0.5 * lora.up[name] @ lora.down[name]
        torch.testing.assert_close(merged[f"denoiser.{name.replace('/', '.')}.weight"], expected)
        model.load_state_dict({**model.state_dict(), **merged})
        torch.testing.assert_close(model(x, t, cond).x0, attached, rtol=1e-4, atol=1e-5)
    assert float((plain - attached).abs().max()) > 1e-4


def test_training_the_adapter_alone_leaves_the_rest_bit_for_bit(
    adapted: tuple[Recipe, Model, Any], catalog: Catalog
) -> None:
    recipe, model, lora = adapted
    objective = make_objective(recipe, catalog, sampling_site(recipe, make_first_stage(recipe, catalog)))
    model.requires_grad_(False)
    lora.requires_grad_(True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam(lora.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(4, 3, 16, 16, generator=generator)
    cond = Cond(crossattn=torch.randn(4, 1, 8, generator=generator))
    losses = []
    for _ in range(12):
        loss = objective.loss(model, x0, cond, streams=Streams(range(4))).value.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {f"adapters.0.{n}" for n in lora.state_dict()}
    lora.detach()
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500.0])
    one = Cond(crossattn=torch.randn(1, 1, 8))
    bare = make_model(resolve({**recipe.plain(), "adapters": []}, catalog), catalog, make_first_stage(recipe, catalog))
    bare.load_state_dict({k: v for k, v in before.items() if not k.startswith("adapters.")})
    with torch.no_grad():
        assert torch.equal(model(x, t, one).x0, bare.eval()(x, t, one).x0)


def test_a_run_with_an_adapter_trains_saves_and_loads_it(catalog: Catalog, tmp_path: Path) -> None:
    recipe, info = workflow.prepare(ADAPTED, catalog)
    result = workflow.run(recipe, info, catalog, str(tmp_path / "run"))
    trained = load_file(result.model)
    ups = {k.removeprefix("adapters.0.up."): v for k, v in trained.items() if k.startswith("adapters.0.up.")}
    still = {k for k, v in ups.items() if not bool(v.any())}
    assert ups and not still, f"B starts at 0, and training did not move {sorted(still)}"
    pipeline = ldm_core.load(result.out, device="cpu")
    assert all(torch.equal(v, trained[k]) for k, v in pipeline.model.state_dict().items())
    with_it = pipeline.sample(inputs=[{"class_label": 1}], steps=2, seed=3)[0].image
    for up in pipeline.model.adapters["0"].up.values():  # type: ignore[union-attr, operator]
        up.mul_(100.0)
    without = pipeline.sample(inputs=[{"class_label": 1}], steps=2, seed=3)[0].image
    assert (with_it != without).any()
