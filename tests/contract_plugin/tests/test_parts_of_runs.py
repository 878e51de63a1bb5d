"""Parts that serve a run: a guidance that remembers, a cache of features, a branch made by an option."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from class_model import drawn, recipe
from ldm_contract_plugin.runs.config import QUERY_BLUR, MomentumConfig
from ldm_contract_plugin.runs.feature_cache import FeatureCache
from ldm_contract_plugin.runs.momentum import Momentum
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from together import together

import ldm_core
from ldm_core.cli import main
from ldm_core.contracts import Cond, Conditions, SamplingRun, Site, evaluation
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.sampling.pipeline import Pipeline

RECIPE = recipe(attention=[1, 2], steps=6, lr=0.02)
CFG = {"use": "cfg", "scale": 3.0}
CACHE = {"cache": {"use": "feature_cache", "interval": 2}}
WAYS: dict[str, dict[str, Any]] = {
    "momentum": {"guidance": {"use": "momentum", "momentum": -0.4}},
    "momentum, second order": {"guidance": "momentum", "sampler": "heun"},
    "cache": {"adapters": CACHE, "guidance": "none"},
    "cache, two branches": {"adapters": CACHE, "guidance": CFG},
    "cache, second order": {"adapters": CACHE, "guidance": CFG, "sampler": "heun"},
    "blur": {"adapters": {"blurred": {"use": "query_blur"}}, "guidance": "blur"},
    "blur and cache": {
        "adapters": {**CACHE, "blurred": {"use": "query_blur"}},
        "guidance": {"use": "blur", "blur": 9.0},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without any of these parts, trained by the command line."""
    place = tmp_path_factory.mktemp("runs")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["--recipe", str(place / "recipe.yaml"), "--out", str(place / "base"), "--quiet"]) == 0
    return place / "base"


@pytest.fixture(scope="module")
def plain(base: Path) -> Pipeline:
    return ldm_core.load(str(base), device="cpu")


def flat(settings: Mapping[str, Any], path: str = "") -> list[str]:
    """Settings as the command line takes them."""
    out: list[str] = []
    for key, value in settings.items():
        here = f"{path}.{key}" if path else key
        out += flat(value, here) if isinstance(value, Mapping) else [f"{here}={value}"]
    return out


@pytest.mark.parametrize("way", WAYS)
def test_the_command_line_and_python_sample_the_same(way: str, base: Path, plain: Pipeline, tmp_path: Path) -> None:
    asked = ["--input", "class_label=1", "--images", "2", "--steps", "5", "--seed", "5", "--out", str(tmp_path)]
    assert main(["sample", str(base), "--quiet", *asked, *flat(WAYS[way])]) == 0
    files = sorted(p for p in tmp_path.iterdir() if p.name != "grid.png")
    inner = plain.with_settings(WAYS[way]).sample(inputs={"class_label": 1}, images=2, steps=5, seed=5)
    assert [Image.open(p).tobytes() for p in files] == [s.image.transpose(1, 2, 0).tobytes() for s in inner]


def test_several_runs_in_threads_have_the_bits_of_each_alone(plain: Pipeline) -> None:
    several = {way: plain.with_settings(settings) for way, settings in WAYS.items()}
    alone = {way: drawn(pipeline) for way, pipeline in several.items()}
    ways = [way for way in WAYS for _ in range(2)]  # two threads a pipeline, which share its parts
    for way, latents in zip(ways, together(partial(drawn, several[way]) for way in ways), strict=True):
        assert np.array_equal(latents, alone[way]), way
    assert all(np.array_equal(drawn(several[way]), alone[way]) for way in WAYS), (
        "a second run has the bits of the first"
    )


# ------------------------------------------------------------------------------------------------------------ momentum


def test_momentum_of_0_is_plain_guidance(plain: Pipeline) -> None:
    without = drawn(plain.with_settings({"guidance": {"use": "momentum", "momentum": 0.0}}))
    np.testing.assert_allclose(without, drawn(plain.with_settings({"guidance": CFG})), rtol=1e-4, atol=1e-4)
    assert np.abs(without - drawn(plain.with_settings({"guidance": {"use": "momentum"}}))).max() > 1e-3


def test_evaluations_of_one_step_stand_on_the_step_before() -> None:
    guidance = Momentum(MomentumConfig(momentum=0.5), Site(size=(4, 4)))
    run = SamplingRun(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    found = []
    for step, value in ((0, 1.0), (0, 3.0), (1, 10.0), (1, 20.0)):
        run.step = step
        found.append(float(guidance._averaged(torch.tensor(value), run)))
    assert found == [1.0, 3.0, 11.5, 21.5]
    assert float(guidance._averaged(torch.tensor(7.0), SamplingRun(run.times))) == 7.0, "another run has its own"


# ------------------------------------------------------------------------------------------------------------- a cache


def test_a_cache_of_every_step_changes_no_bit(plain: Pipeline) -> None:
    for more in ({"guidance": "none"}, {"guidance": CFG}, {"guidance": CFG, "sampler": "heun"}):
        bare = plain.with_settings(more)
        assert np.array_equal(
            drawn(bare.with_settings({"adapters": {"cache": {"use": "feature_cache", "interval": 1}}})), drawn(bare)
        ), more


def test_the_cache_leaves_deep_blocks_out(plain: Pipeline) -> None:
    cached = plain.with_settings({"adapters": CACHE, "guidance": CFG, "sampler": "heun"})
    bare = plain.with_settings({"guidance": CFG, "sampler": "heun"})
    calls: dict[str, list[int]] = {"middle": [], "first": []}
    model: Any = cached.model.denoiser

    def seen(name: str) -> Callable[..., None]:
        return lambda *_: calls[name].append(evaluation().run.step)  # type: ignore[union-attr]

    handles = [
        model.middle_block[0].register_forward_hook(seen("middle")),
        model.input_blocks[0].register_forward_hook(seen("first")),
    ]
    latents = drawn(cached)
    for handle in handles:
        handle.remove()
    assert calls["first"] == [0, 0, 1, 1, 2, 2, 3, 3, 4], "heun: two evaluations a step, and one at the last"
    assert calls["middle"] == [0, 0, 2, 2, 4]
    assert not np.array_equal(latents, drawn(bare)), "features of the step before are not those of this one"


def test_the_cache_is_told_of_the_end_of_each_run(plain: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    begin, end = FeatureCache.begin, FeatureCache.end

    def begun(self: FeatureCache, run: SamplingRun) -> None:
        told.append(("begin", run.steps))
        begin(self, run)

    def ended(self: FeatureCache, run: SamplingRun) -> None:
        made = self._of(run).made
        end(self, run)
        told.append(("end", len(made)))

    monkeypatch.setattr(FeatureCache, "begin", begun)
    monkeypatch.setattr(FeatureCache, "end", ended)
    cached = plain.with_settings({"adapters": CACHE})
    drawn(cached)
    assert told == [("begin", 5), ("end", 0)]
    told.clear()
    with pytest.raises(Interrupted):
        drawn(cached, callback=lambda progress: progress.step < 2)
    assert told == [("begin", 5), ("end", 0)]
    told.clear()
    with pytest.raises(ZeroDivisionError):
        drawn(cached, callback=lambda progress: 1 / 0)
    assert told == [("begin", 5), ("end", 0)]


@pytest.mark.parametrize("method", ["begin", "end"])
def test_an_adapter_that_fails_around_a_run_is_named(
    method: str, plain: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: FeatureCache, run: SamplingRun) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(FeatureCache, method, fails)
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        drawn(plain.with_settings({"adapters": CACHE}))
    (note,) = caught.value.__notes__
    assert note.startswith(f"in {method} of adapter 'cache' ('feature_cache' of ldm-contract-plugin "), note
    assert "the fault is in that part" in note


# ------------------------------------------------------------------------------------------------- a branch's options


def test_the_option_needs_the_adapter(plain: Pipeline, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ConfigError, match=rf"guidance 'blur' sets the option '{QUERY_BLUR}', and no denoiser or adapter"
    ):
        plain.with_settings({"guidance": "blur"})
    assert main(["sample", str(base), "--quiet", "--input", "class_label=1", "guidance.use=blur"]) == 2
    assert "add the adapter that reads it" in capsys.readouterr().err.replace("\n", " ")
    given = Conditions({"a": Cond()}, {"a": Cond()}, options=["query_blurr"])
    with pytest.raises(ConfigError, match=rf"'{QUERY_BLUR}', and no .*; did you mean 'query_blurr'\?"):
        given.with_options(["a"], **{QUERY_BLUR: 1.0})


def test_a_strong_blur_makes_one_query_of_all(plain: Pipeline) -> None:
    blurred = plain.with_settings(WAYS["blur"])
    model: Any = blurred.model
    seen: list[tuple[tuple[int, ...], torch.Tensor]] = []
    for name, module in model.denoiser.named_modules():
        if name.endswith("attn1.to_q"):
            module.register_forward_hook(lambda m, given, out: seen.append((evaluation().grid, out)))  # type: ignore[union-attr]
    cond = Cond(crossattn=torch.ones(1, 1, 8), options={QUERY_BLUR: 1e6})
    x, t = torch.randn(1, 3, 16, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    with torch.no_grad():
        plainly = model(x, t, cond._replace(options={})).x0
        sharp, seen[:] = list(seen), []
        far = float((model(x, t, cond).x0 - plainly).abs().max())
    assert {grid for grid, _ in seen} == {(16, 8), (8, 4)}, "each level has a grid of its own"
    assert all(float((out - out.mean(1, keepdim=True)).abs().max()) < 1e-5 for _, out in seen)
    assert all(float((out - out.mean(1, keepdim=True)).abs().max()) > 1e-3 for _, out in sharp)
    assert far > 1e-6


def test_an_option_makes_one_bundle_a_run() -> None:
    given = Conditions({"a": Cond(vector=torch.ones(1, 2))}, {"a": Cond(vector=torch.zeros(1, 2))})
    first = given.with_options(["a"], one=1)
    assert first is given.with_options(["a"], one=1) and first.options == {"one": 1}
    assert first.vector is given.cond.vector, "the tensors are those of the plain bundle"
    assert first is not given.with_options(["a"], one=2) and first is not given.with_options([], one=1)
    assert first is not given.in_run(SamplingRun(torch.zeros(2))).with_options(["a"], one=1)
    assert given.cond.options == {}
