"""Autoguidance: in the conformance kit, against closed forms, with models of runs, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_autoguidance.config import AutoGuidanceConfig
from ldm_plugin_autoguidance.guidance import AutoGuidance
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.parameterizations import X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Cond, Conditions, LatentSpec, NoiseSchedule, Site, evaluation
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import check
from ldm_core.recipe.recipe import Recipe, versions
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling import second_model
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import guided_run
from ldm_core.testing import GuidanceSuite, PluginSuite
from ldm_core.testing.base import randomize
from ldm_core.testing.gaussian import FlowSchedule, VESchedule

LATENT = LatentSpec(3, (1, 1))
TINY: dict[str, Any] = {
    "image_size": [16, 24],
    "first_stage": "identity",
    "denoiser": {
        "use": "unet",
        "channels": 8,
        "channel_mult": [1],
        "res_blocks": 1,
        "heads": 2,
        "attention": [],
        "norm_groups": 4,
    },
    "conditioners": [{"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}],
    "sample": {"steps": 4, "images": 2},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def write_model(folder: Path, plain: Mapping[str, Any] = TINY, *, first_stage: str = "ab" * 32, seed: int = 0) -> Model:
    """What a run leaves of its model, of weights that were never trained."""
    catalog = Catalog.discover()
    recipe = resolve(plain, catalog)
    model = make_model(recipe, catalog, make_first_stage(recipe, catalog))
    randomize(model, seed)
    meta = artifacts.metadata(
        "model", "unet", recipe.carried(), versions(recipe, catalog), first_stage_sha256=first_stage
    )
    folder.mkdir(exist_ok=True)
    save_file(dict(model.state_dict()), folder / artifacts.MODEL_FILE, metadata=meta)
    return model.eval()


def write_stage(folder: Path) -> str:
    """The first stage of such a run; its file's hash."""
    catalog = Catalog.discover()
    recipe = resolve(TINY, catalog)
    stage: Any = make_first_stage(recipe, catalog)
    folder.mkdir(exist_ok=True)
    meta = artifacts.metadata("first_stage", "identity", {"channels": 3}, {})
    save_file(dict(stage.state_dict()), folder / artifacts.STAGE_FILE, metadata=meta)
    return artifacts.sha256(str(folder / artifacts.STAGE_FILE))


# ------------------------------------------------------------------------------------------------------------ the kit


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-autoguidance"


class _Beside(GuidanceSuite):
    component = "autoguidance"
    latent: ClassVar[LatentSpec] = LATENT
    more: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class", autouse=True)
    def _weak(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("weak")
        write_model(folder)
        request.cls.settings = {"model": str(folder), **request.cls.more}


class TestAutoGuidance(_Beside):
    pass


class TestAutoGuidanceInAnInterval(_Beside):
    more: ClassVar[Mapping[str, Any]] = {"scale": 3.0, "interval": [0.0, 5.0]}


# -------------------------------------------------------------------------------------------------------- closed forms


class Gaussian(Denoiser, nn.Module):
    """The denoiser of data N(mean, std²), estimates x0; counts its calls."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std, self.calls = mean, std, 0

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        self.calls += 1
        variance = (8 * noise_level.double()).exp().view(-1, 1, 1, 1)
        x = x.double() * (1 + variance).sqrt()  # c_in of the parameterization
        return (self.mean + self.std**2 / (self.std**2 + variance) * (x - self.mean)).float()


def two(monkeypatch: pytest.MonkeyPatch, weak: Gaussian, **config: Any) -> AutoGuidance:
    """Autoguidance by a model that is in no file."""
    model = Model(weak, VESchedule(), X0Parameterization())
    monkeypatch.setattr(second_model, "find", lambda *_: SimpleNamespace(sha256=""))
    monkeypatch.setattr(second_model, "load", lambda *_: model)
    return AutoGuidance(structure({"model": "weak", **config}, AutoGuidanceConfig, "autoguidance"), Site(size=(4, 4)))


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 3.0])
def test_two_gaussians(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """x0 at every level, and where the flow ends: dx / dsigma = sigma (w / (s1² + sigma²) + (1 - w) / (s0² + sigma²))
    (x - m), so that x - m shrinks by the w-th power of the strong model's own factor and the (1-w)-th of the weak's."""
    m, s1, s0, start = 0.4, 0.5, 0.8, 6.0
    strong = Gaussian(m, s1)
    guidance = two(monkeypatch, Gaussian(m, s0), scale=scale)
    predict = make_predict(Model(strong, VESchedule(), X0Parameterization()))
    schedule, conditions = VESchedule(), Conditions({}, {})
    begin = x = start * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def x0(x: Tensor, sigma: float) -> Tensor:
        t = torch.full((2,), sigma, dtype=torch.float64)
        return guidance.guide(predict, x, t, conditions, schedule).x0

    for sigma in (0.05, 1.0, 15.0):
        one, other = (m + s**2 / (s**2 + sigma**2) * (x - m) for s in (s1, s0))
        torch.testing.assert_close(x0(x, sigma), other + scale * (one - other), rtol=1e-5, atol=1e-5)
    levels = [*(torch.logspace(0, -3, 200, dtype=torch.float64) * start).tolist(), 0.0]
    for sigma, after in itertools.pairwise(levels):
        d = (x - x0(x, sigma)) / sigma
        ahead = x + d * (after - sigma)
        x = ahead if after == 0 else x + (d + (ahead - x0(ahead, after)) / after) / 2 * (after - sigma)
    shrunk = (s1 / (s1**2 + start**2) ** 0.5) ** scale * (s0 / (s0**2 + start**2) ** 0.5) ** (1 - scale)
    torch.testing.assert_close(x, m + shrunk * (begin - m), rtol=2e-3, atol=2e-3)
    assert (strong.calls == 0) is (scale == 0.0), "scale 0 asks the weaker model alone"


def test_the_weaker_model_is_asked_inside_the_interval_only(monkeypatch: pytest.MonkeyPatch) -> None:
    strong, weak = Gaussian(0.0, 1.0), Gaussian(0.5, 1.0)
    guidance = two(monkeypatch, weak, scale=2.0, interval=[0.5, 3.0])
    predict = make_predict(Model(strong, VESchedule(), X0Parameterization()))
    x, conditions, schedule = torch.ones(1, 1, 4, 4), Conditions({}, {}), VESchedule()
    for sigma in (0.1, 0.4, 1.0, 2.0, 3.0, 3.1, 10.0):
        guidance.guide(predict, x, torch.tensor([sigma], dtype=torch.float64), conditions, schedule)
    assert (strong.calls, weak.calls) == (7, 3)


def test_the_weaker_model_shares_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    strong, weak = Gaussian(0.0, 1.0), Gaussian(0.5, 1.0)
    seen: list[Any] = []
    for network in (strong, weak):
        network.register_forward_hook(lambda *_: seen.append(evaluation()))
    guidance = two(monkeypatch, weak, scale=2.0)
    model, x = Model(strong, VESchedule(), X0Parameterization()), torch.ones(1, 1, 4, 4)
    times = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    with guided_run(model, guidance, Conditions({}, {}), times) as (denoise, on_step):
        for i in range(2):
            denoise(x, times[i : i + 1])
            on_step(i, times[i + 1], x, x)
    assert len(seen) == 4 and len({id(one.run) for one in seen}) == 1 and seen[0].run.steps == 2


@pytest.mark.parametrize("other", [FlowSchedule(), VPSchedule(VPConfig())])
def test_another_schedule_is_refused(other: NoiseSchedule, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = two(monkeypatch, Gaussian(0.0, 1.0))
    predict = make_predict(Model(Gaussian(0.0, 1.0), other, X0Parameterization()))
    with pytest.raises(CheckpointError, match="weak: was trained under another noise schedule"):
        guidance.guide(predict, torch.ones(1, 1, 4, 4), torch.tensor([0.5]), Conditions({}, {}), other)


# ------------------------------------------------------------------------------------------------------ models of runs


def pipeline_of(catalog: Catalog, plain: Mapping[str, Any] = TINY, *, first_stage: str = "ab" * 32) -> Pipeline:
    recipe = resolve(plain, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    randomize(model, 5)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog, weights="cd" * 32, first_stage=first_stage)


def test_sampling_beside_a_run(catalog: Catalog, tmp_path: Path) -> None:
    """The weaker model of a file, with its own conditioner and another width and parameterization."""
    weaker = {**TINY, "denoiser": {**TINY["denoiser"], "channels": 4}, "parameterization": "v"}
    weak_model = write_model(tmp_path / "weak", weaker, seed=2)
    pipeline = pipeline_of(catalog)
    chosen = pipeline.with_settings(
        {"guidance": {"use": "autoguidance", "model": str(tmp_path / "weak"), "scale": 2.5}}
    )
    config = chosen.recipe.guidance.config
    assert config.sha256 == artifacts.sha256(str(tmp_path / "weak" / artifacts.MODEL_FILE))
    made = chosen.sample(inputs={"class_label": 2}, seed=[1, 2])
    assert config.sha256 in made[0].metadata["recipe"]
    assert made[0].metadata["guidance"] == "autoguidance 2.5"

    guidance = chosen._parts(chosen.recipe).guidance
    assert chosen._parts(chosen.recipe).guidance is guidance, "the weaker model is loaded once"
    batch = {"class_label": torch.tensor([2, 0])}
    from ldm_core.sampling.run import conditions_of

    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300.0, 800.0], dtype=torch.float64)
    with torch.no_grad():
        conditions = conditions_of(pipeline.model, batch)
        found = guidance.guide(make_predict(pipeline.model), x, t, conditions, pipeline.model.schedule).x0
        weak = weak_model(x, t, conditions_of(weak_model, batch).cond).x0
        strong = pipeline.model(x, t, conditions.cond).x0
    torch.testing.assert_close(found, weak + 2.5 * (strong - weak), rtol=1e-4, atol=1e-4)
    plain = pipeline.sample(inputs={"class_label": 2}, seed=[1, 2])
    same = chosen.sample(inputs={"class_label": 2}, seed=[1, 2], guidance=1.0)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(plain, same, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(plain, made, strict=True))


def test_the_weaker_model_is_made_by_the_catalog_of_the_run(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "weak", seed=2)
    chosen = pipeline_of(catalog).with_settings({"guidance": {"use": "autoguidance", "model": str(tmp_path / "weak")}})

    def discover() -> Catalog:
        raise AssertionError("the run has a catalog")

    monkeypatch.setattr(Catalog, "discover", staticmethod(discover))
    assert len(chosen.sample(inputs={"class_label": 2}, seed=[1], steps=1)) == 1


def wrong(catalog: Catalog, folder: Path, first_stage: str = "ab" * 32, **config: Any) -> str:
    with pytest.raises((CheckpointError, ConfigError, DataError)) as caught:
        pipeline_of(catalog, first_stage=first_stage).with_settings(
            {"guidance": {"use": "autoguidance", "model": str(folder), **config}}
        ).sample(inputs={"class_label": 0}, seed=[1], steps=1)
    return str(caught.value)


def test_what_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    assert "no such file or folder; give a .safetensors file or a run's folder" in wrong(catalog, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no model.safetensors; give a finished run's folder" in wrong(catalog, tmp_path / "empty")
    write_model(tmp_path / "weak")
    assert "was trained on the latents of another first stage (sha256 abababababab, here eeeeeeeeeeee)" in wrong(
        catalog, tmp_path / "weak", first_stage="ee" * 32
    )
    write_model(tmp_path / "grey", {**TINY, "image_channels": 1, "first_stage": {"use": "identity", "channels": 1}})
    assert "its latents have 1 channels at factor (1, 1), here they have 3 at (1, 1)" in wrong(
        catalog, tmp_path / "grey"
    )
    more = {"use": "class_label", "name": "second", "key": "kind", "classes": 3, "width": 8}
    write_model(tmp_path / "more", {**TINY, "conditioners": [*TINY["conditioners"], more]})
    assert "conditioner 'second' of the weaker model" in wrong(catalog, tmp_path / "more")
    write_model(tmp_path / "cosine", {**TINY, "schedule": {"use": "vp", "steps": 500}})
    assert "was trained under another noise schedule" in wrong(catalog, tmp_path / "cosine")
    for unnamed in ({"use": "autoguidance"}, {"use": "autoguidance", "model": ""}):
        with pytest.raises(ConfigError, match=r"model: the weaker model is not named.*guidance\.model=PATH_OR_URL"):
            pipeline_of(catalog).with_settings({"guidance": unnamed})
        with pytest.raises(ConfigError, match="model: the weaker model is not named"):
            check(resolve({**TINY, "guidance": unnamed}, catalog))


def test_a_file_names_no_second_model_and_its_user_does(catalog: Catalog, tmp_path: Path) -> None:
    """A run sampled under autoguidance: its file keeps the scale and the weaker model's hash, and no place."""
    stage = write_stage(tmp_path / "run")
    write_model(tmp_path / "weak", first_stage=stage)
    write_model(tmp_path / "other", first_stage=stage, seed=9)
    said = {"use": "autoguidance", "model": str(tmp_path / "weak"), "scale": 2.5}
    write_model(tmp_path / "run", {**TINY, "guidance": said}, first_stage=stage)
    pipeline = Pipeline.load(str(tmp_path / "run"), device="cpu", catalog=catalog)
    config = pipeline.recipe.guidance.config
    assert (config.model, config.scale) == ("", 2.5)
    assert config.sha256 == artifacts.sha256(str(tmp_path / "weak" / artifacts.MODEL_FILE))
    draw: dict[str, Any] = {"inputs": {"class_label": 2}, "seed": [1], "steps": 1}
    with pytest.raises(ConfigError, match=r"the weaker model is not named.*guidance\.model=PATH_OR_URL"):
        pipeline.sample(**draw)
    named = pipeline.with_settings([f"guidance.model={tmp_path / 'weak'}"])
    assert named.recipe.guidance.config.scale == 2.5
    own = Pipeline.load(str(tmp_path / "run"), device="cpu", catalog=catalog).with_settings({"guidance": said})
    assert np.array_equal(named.sample(**draw)[0].image, own.sample(**draw)[0].image)
    with pytest.raises(CheckpointError, match="is not the weaker model that was named"):
        pipeline.with_settings([f"guidance.model={tmp_path / 'other'}"]).sample(**draw)
    plain = pipeline.with_settings({"guidance": "none"})
    assert len(plain.sample(**draw)) == 1


def test_a_weaker_model_that_changed_is_refused_and_the_stronger_one_still_loads(
    catalog: Catalog, tmp_path: Path
) -> None:
    write_model(tmp_path / "weak")
    recipe = resolve({**TINY, "guidance": {"use": "autoguidance", "model": str(tmp_path / "weak")}}, catalog)
    write_model(tmp_path / "weak", seed=9)
    again: Recipe = resolve(recipe.plain(), catalog)
    assert again == recipe
    pipeline = pipeline_of(catalog, recipe.plain())
    with pytest.raises(CheckpointError, match="is not the weaker model that was named"):
        pipeline.sample(inputs={"class_label": 0}, seed=[1], steps=1)
    assert len(pipeline.sample(inputs={"class_label": 0}, seed=[1], steps=1, guidance="none")) == 1
    named = pipeline.with_settings([f"guidance.model={tmp_path / 'weak'}"])
    assert len(named.sample(inputs={"class_label": 0}, seed=[1], steps=1)) == 1, "named anew, it is the right one"


def test_a_negative_has_no_place(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "weak")
    pipeline = pipeline_of(catalog).with_settings(
        {"guidance": {"use": "autoguidance", "model": str(tmp_path / "weak")}}
    )
    with pytest.raises(ConfigError, match="guidance 'autoguidance at scale 2' makes none"):
        pipeline.sample(inputs={"class_label": 0}, seed=[1], negative={"class_label": 1})


def test_the_check_of_a_recipe_looks_into_the_file(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "weak")
    recipe = resolve({**TINY, "guidance": {"use": "autoguidance", "model": str(tmp_path / "weak")}}, catalog)
    check(recipe)
    gone = attrs.evolve(recipe.guidance, config=attrs.evolve(recipe.guidance.config, model=str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match=r"guidance 'autoguidance': model: .*no such file or folder"):
        check(attrs.evolve(recipe, guidance=gone))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
def test_the_weaker_model_follows_the_device(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "weak")
    pipeline = pipeline_of(catalog)
    pipeline.model.cuda()
    pipeline.stage.cuda()  # type: ignore[attr-defined]
    chosen = pipeline.with_settings({"guidance": {"use": "autoguidance", "model": str(tmp_path / "weak")}})
    assert len(chosen.sample(inputs={"class_label": 1}, seed=[1], steps=2)) == 1
