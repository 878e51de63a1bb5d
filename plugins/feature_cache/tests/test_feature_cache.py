"""Caches of features: against references, exact where nothing may change, each branch and run by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_feature_cache import spans
from ldm_plugin_feature_cache.config import DeepCacheConfig, FirstBlockCacheConfig
from ldm_plugin_feature_cache.deep_cache import DeepCache
from ldm_plugin_feature_cache.first_block_cache import FirstBlockCache
from one_thread import each_module as _one_thread  # noqa: F401
from together import together
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.contracts import EMPTY, BlockSpan, Cond, SamplingRun, evaluation
from ldm_core.contracts.run import in_run
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.diffusion import Model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing import toys
from ldm_core.testing.base import randomize

TINY: dict[str, Any] = {
    "image_size": 16,
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 4},
    "conditioners": [{"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}],
    "guidance": {"use": "cfg", "scale": 3.0},
    "sampler": "ddim",
    "sample": {"steps": 6, "images": 2},
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "unguided": {"guidance": "none"},
    "guided": {},
    "interval": {"guidance": {"use": "cfg", "scale": 3.0, "interval": [0.5, 3.0]}},
    "second order": {"sampler": "heun"},
    "stochastic": {"sampler": "ddpm"},
    "windows": {"adapters": {"wide": {"use": "multidiffusion", "window": 8, "overlap": 0, "batch": 4}}},
}


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    catalog = Catalog.discover()
    recipe = resolve(TINY, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    randomize(model, 3)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


def drawn(pipeline: Pipeline, seed: int = 5, **more: Any) -> np.ndarray:
    made = pipeline.sample(**{"inputs": {"class_label": 1}, "images": 2, "steps": 6, "seed": seed, **more})
    return np.stack([np.asarray(each.latents) for each in made])


def with_cache(pipeline: Pipeline, settings: Mapping[str, Any] = EMPTY, **cache: Any) -> Pipeline:
    """The pipeline with these settings and a cache: `deep_cache`, or another that `use` says."""
    adapters = {**settings.get("adapters", {}), "cache": {"use": "deep_cache", **cache}}
    return pipeline.with_settings({**settings, "adapters": adapters})


COND = Cond()
"""A bundle that lasts for a run."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_changes_where_nothing_is_left_out(way: str, plain: Pipeline) -> None:
    bare = drawn(plain.with_settings(WAYS[way]), steps=4)
    for cache in (
        {"interval": 1},
        {"use": "first_block_cache", "threshold": 0.0},
        {"interval": 2, "branch": 3},
    ):
        found = drawn(with_cache(plain, WAYS[way], **cache), steps=4)
        assert np.array_equal(found, bare) == ("branch" not in cache), cache


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_inside_makes_any_cache_exact(way: str, plain: Pipeline) -> None:
    """The last block of the span without weights gives its bias, whatever it is handed: all caches are exact."""
    constant = Pipeline(plain.recipe, plain.stage, plain.model.beside({}), plain.catalog)
    network: Any = constant.model.denoiser
    last = network.output_blocks[-2]
    kept = {name: value.clone() for name, value in last.state_dict().items()}
    try:
        for name, value in last.state_dict().items():
            if "norm" not in name and not name.endswith("skip_connection.bias"):
                value.zero_()
        bare = drawn(constant.with_settings(WAYS[way]), steps=4)
        for cache in (
            {"interval": 2},
            {"use": "first_block_cache", "threshold": 0.3, "max_skips": 1},
        ):
            assert np.array_equal(drawn(with_cache(constant, WAYS[way], **cache), steps=4), bare), cache
    finally:
        last.load_state_dict(kept)


class Reference(nn.Module):
    """The U-Net and its cache in a dozen lines: full at the steps `full`, else a call by call of the outer blocks."""

    def __init__(self, network: Any, branch: int, full: Sequence[int]) -> None:
        super().__init__()
        self.network, self.branch, self.full, self.config = network, branch, full, network.config
        self.inner: dict[int, Tensor] = {}

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        from ldm_core.nn.embeddings import timestep_embedding

        now, net = evaluation(), self.network
        assert now is not None and now.run is not None
        emb = net.time_embed(timestep_embedding(noise_level, net.config.channels))
        tokens, h, skips = cond.crossattn, x, []
        deep = now.run.step in self.full or len(x) not in self.inner
        for stage in net.input_blocks if deep else net.input_blocks[: self.branch + 1]:
            h = stage(h, emb, tokens)
            skips.append(h)
        h = net.middle_block(h, emb, tokens) if deep else self.inner[len(x)]
        for number, stage in enumerate(net.output_blocks):
            left = len(net.output_blocks) - number
            if not deep and left > self.branch + 1:
                continue
            if left == self.branch + 1:
                self.inner[len(x)] = h
            h = stage(torch.cat([h, skips.pop()], 1), emb, tokens)
        out: Tensor = net.out(h)
        return out


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("way", ["unguided", "guided", "second order"])
def test_deep_cache_is_the_schedule_of_outer_blocks(way: str, branch: int, plain: Pipeline) -> None:
    """Bundles of a run are told apart by their rows: one of two, and two branches of two."""
    found = drawn(with_cache(plain, WAYS[way], interval=4, branch=branch, order=0))
    other = plain.with_settings(WAYS[way])
    base = other.model
    network = Reference(base.denoiser, branch, full=[0, 4])
    model = Model(network, base.schedule, base.parameterization, dict(base.conditioners)).eval()  # type: ignore[arg-type]
    reference = Pipeline(other.recipe, other.stage, model, other.catalog)
    np.testing.assert_allclose(found, drawn(reference), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_features_go_on_along_their_polynomial(order: int) -> None:
    """Blocks without weights add tanh of the level, four times: between full steps as numpy's polynomial has it."""
    network = Transformer()
    for block in network.transformer_blocks:
        for value in block.parameters():
            nn.init.zeros_(value)
    cache = DeepCache(DeepCacheConfig(interval=2, order=order))
    model = toys.toy_model(denoiser=network).beside({"cache": cache})  # type: ignore[arg-type]
    run = SamplingRun(torch.linspace(900, 0, 10, dtype=torch.float64))
    with torch.no_grad(), run, in_run(run):
        for run.step in range(8):
            t = run.times[run.step]
            found = model.network(torch.zeros(2, 4, 4, 4), t.expand(2), COND)
            nodes = run.times[torch.arange(0, run.step + 1, 2)[-order - 1 :]]
            values = 4 * np.tanh(model.schedule.noise_level(nodes).numpy() / 1000)
            expected = np.polyval(np.polyfit(nodes.numpy() / 1000, values, len(nodes) - 1), float(t) / 1000)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def calls_of(pipeline: Pipeline, **more: Any) -> tuple[list[int], list[int]]:
    """The steps at which the first and the middle block of the U-Net run."""
    outer: list[int] = []
    inner: list[int] = []
    net: Any = pipeline.model.denoiser

    def seen(steps: list[int]) -> Callable[..., None]:
        return lambda *_: steps.append(evaluation().run.step)  # type: ignore[union-attr]

    handles = [
        net.input_blocks[0][0].register_forward_hook(seen(outer)),
        net.middle_block[0].register_forward_hook(seen(inner)),
    ]
    drawn(pipeline, **more)
    for handle in handles:
        handle.remove()
    return outer, inner


def test_the_deep_blocks_run_at_full_steps(plain: Pipeline) -> None:
    heun = with_cache(plain, WAYS["second order"], interval=3)
    assert calls_of(heun) == ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5], [0, 0, 3, 3]), "two evaluations a step but the last"
    dense = with_cache(plain, interval=3, schedule="quadratic", center=0.5, power=2.0)
    assert calls_of(dense, steps=12)[1] == DeepCacheConfig(
        interval=3, schedule="quadratic", center=0.5, power=2.0
    ).full_steps(12)


def test_a_branch_without_features_since_the_last_full_step_is_computed(plain: Pipeline) -> None:
    """Two branches inside of the interval of guidance, one outside: each change of what is evaluated begins anew."""
    schedule, steps = plain.model.schedule, 8
    other = with_cache(plain, {"guidance": {"use": "cfg", "scale": 3.0, "interval": [0.5, 3.0]}}, interval=4)
    rows: list[tuple[int, int]] = []
    net: Any = other.model.denoiser

    def seen(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        now = evaluation()
        assert now is not None and now.run is not None
        rows.append((now.run.step, len(out)))
        times[:] = now.run.times.tolist()

    times: list[float] = []
    handle = net.middle_block[0].register_forward_hook(seen)
    drawn(other, steps=steps)
    handle.remove()
    ratio = [float(schedule.sigma(torch.tensor(t)) / schedule.alpha(torch.tensor(t))) for t in times[:steps]]
    wide = [4 if 0.5 < each <= 3.0 else 2 for each in ratio]
    expected = [(i, wide[i]) for i in range(steps) if i in (0, 4) or wide[i] != wide[i - 1]]
    assert len(set(wide)) == 2 and rows == expected, (wide, rows)


def test_runs_that_begin_from_a_picture_begin_with_a_full_step(plain: Pipeline) -> None:
    picture = (normal(3, 16, 16).clamp(-1, 1) * 127.5 + 127.5).byte().numpy()
    assert calls_of(with_cache(plain, interval=3), steps=8, start=Start.image(picture, strength=0.5)) == (
        [0, 1, 2, 3],
        [0, 3],
    )


def test_threads_have_the_bits_of_each_alone(plain: Pipeline) -> None:
    several = [with_cache(plain, interval=2), with_cache(plain, use="first_block_cache", threshold=0.5), plain]
    calls = [partial(drawn, pipeline, seed) for pipeline in several for seed in (1, 2)]
    alone = [call() for call in calls]
    for found, expected in zip(together(calls), alone, strict=True):
        assert np.array_equal(found, expected)


# ---------------------------------------------------------------------------------------------------------- first block


def test_max_skips_bounds_the_calls_in_a_row(plain: Pipeline) -> None:
    always: dict[str, Any] = {"use": "first_block_cache", "threshold": 1e9}
    assert calls_of(with_cache(plain, **always))[1] == [0]
    assert calls_of(with_cache(plain, **always, max_skips=2))[1] == [0, 3]


class Block(nn.Module):
    """A block of a transformer that adds to its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, level: Tensor) -> Tensor:
        return hidden_states + torch.tanh(self.layer(hidden_states) + level)


class Transformer(nn.Module):
    """Blocks on the cells of x; F is what they make of it."""

    def __init__(self, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = x.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, noise_level.view(-1, 1, 1) / 1000)
        return h.transpose(1, 2).unflatten(2, x.shape[2:])

    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan(list(self.transformer_blocks), self.residual)]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("accumulate", [True, False])
def test_images_do_not_depend_on_those_beside_them(residual: bool, accumulate: bool) -> None:
    """One row hardly moves and reuses, the other moves: together they are what each is alone, at each step."""
    network = Transformer(residual)
    randomize(network, 1)
    start, moves = normal(2, 4, 4, 4), torch.tensor([0.001, 0.3]).view(-1, 1, 1, 1)

    def run_of(rows: list[int]) -> tuple[list[Tensor], list[int]]:
        model = toys.toy_model(denoiser=network).beside(  # type: ignore[arg-type]
            {"cache": FirstBlockCache(FirstBlockCacheConfig(threshold=0.1, accumulate=accumulate))}
        )
        x, cond, run = start[rows], Cond(), SamplingRun(torch.linspace(100, 0, 9, dtype=torch.float64))
        outs: list[Tensor] = []
        ran: list[int] = []
        copy: Any = model.denoiser
        copy.transformer_blocks[-1].layer.register_forward_hook(lambda *_: ran.append(run.step))
        with torch.no_grad(), run, in_run(run):
            for run.step in range(8):
                outs.append(model.network(x, torch.full((len(rows),), 50.0 - run.step), cond))
                x = x + moves[rows] * normal(2, 4, 4, 4, seed=run.step)[rows]
        return outs, ran

    (both, ran), (still, few), (moving, many) = run_of([0, 1]), run_of([0]), run_of([1])
    assert len(few) < len(many) == len(ran), (few, many, ran)
    for together_, one, other in zip(both, still, moving, strict=True):
        torch.testing.assert_close(together_, torch.cat([one, other]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.15, 1e9])
def test_first_block_cache_is_that_of_diffusers(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = pytest.importorskip("diffusers.hooks")
    helpers = pytest.importorskip("diffusers.hooks._helpers")
    if not hasattr(hooks, "apply_first_block_cache"):
        pytest.skip("diffusers is older than its cache")
    monkeypatch.setattr(helpers.TransformerBlockRegistry, "_is_registered", True)  # it would import every transformer
    helpers.TransformerBlockRegistry.register(Block, helpers.TransformerBlockMetadata(return_hidden_states_index=0))
    theirs, mine = Transformer(), Transformer()
    randomize(theirs, 1)
    mine.load_state_dict(theirs.state_dict())
    hooks.apply_first_block_cache(theirs, hooks.FirstBlockCacheConfig(threshold=threshold))
    context = hooks.hooks.CacheContext("one") if hasattr(hooks.hooks, "CacheContext") else "one"
    for block in theirs.modules():
        registry = getattr(block, "_diffusers_hook", None)
        for hook in [] if registry is None else registry.hooks.values():
            hook.state_manager.set_context(context)
    model = toys.toy_model(denoiser=mine)  # type: ignore[arg-type]
    FirstBlockCache(FirstBlockCacheConfig(threshold=threshold)).attach(model)
    ran: list[int] = []
    mine.transformer_blocks[-1].layer.register_forward_hook(lambda *_: ran.append(1))  # type: ignore[union-attr]
    x, cond, reused = normal(1, 4, 4, 4), Cond(), 0
    with torch.no_grad(), SamplingRun(torch.linspace(1000, 0, 13, dtype=torch.float64)) as run, in_run(run):
        for step in range(12):
            t = run.times[step : step + 1]
            before = len(ran)
            found = model.network(x, t, cond)
            reused += len(ran) == before
            scaled = model.coefficients(t)[2].view(-1, 1, 1, 1).float() * x
            expected = theirs(scaled, model.schedule.noise_level(t).float(), cond)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            x = x + 0.05 * normal(*x.shape, seed=step)
            run.step += 1
    assert reused == 11 if threshold > 1 else reused == 0 if threshold == 0 else 0 < reused < 11


# ------------------------------------------------------------------------------------------------------------ the state


def test_kept_features_stay_few_and_leave_with_the_run(plain: Pipeline) -> None:
    """Bundles made anew at each step find nothing; those that can be used no more make room for them."""
    cache = DeepCache(DeepCacheConfig(interval=3))
    model = plain.model.beside({"cache": cache})
    x, t = normal(1, 3, 16, 16), torch.tensor([500.0])
    given = plain.model.encode({"class_label": torch.tensor([1])})
    with torch.no_grad(), SamplingRun(torch.linspace(1000, 0, 31, dtype=torch.float64)) as run, in_run(run):
        for run.step in range(8):
            for _ in range(9):
                model(x, t, plain.model.merged(given)._replace(options={}))
        kept: dict[int, Any] = run.state(cache, dict)
        assert 0 < len(kept) <= 27
        for _ in range(60):
            model(x, t, plain.model.merged(given)._replace(options={}))
        assert len(kept) <= spans._MOST_BUNDLES
    assert not run.state(cache, dict)


def test_gradients_pass_through_all_blocks(plain: Pipeline) -> None:
    model = plain.model.beside({"cache": DeepCache(DeepCacheConfig(interval=9))})
    cond = plain.model.merged(plain.model.encode({"class_label": torch.tensor([1])}))
    t, found = torch.tensor([500.0]), []
    with SamplingRun(torch.linspace(1000, 0, 10, dtype=torch.float64)) as run, in_run(run):
        for step, each in enumerate((plain.model, model, model)):
            run.step, x = step, normal(1, 3, 16, 16).requires_grad_()
            with torch.no_grad():
                each(x.detach() + 1, t, cond)
            found.append(torch.autograd.grad(each(x, t, cond).x0.square().sum(), x)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_denoiser_that_says_nothing_is_one_line() -> None:
    for cache in (DeepCache(DeepCacheConfig()), FirstBlockCache(FirstBlockCacheConfig())):
        with pytest.raises(ConfigError, match=r"_cache: ToyDenoiser does not say what may be kept .* `reusable_spans`"):
            cache.attach(toys.toy_model())


def test_a_branch_that_is_not_there_is_one_line(plain: Pipeline) -> None:
    with pytest.raises(ConfigError, match="deep_cache: branch 4 of UNet, which has 4 for it; choose a smaller one"):
        with_cache(plain, branch=4)
    with pytest.raises(ConfigError, match="first_block_cache: branch 3 of UNet, which has 3 for it"):
        with_cache(plain, use="first_block_cache", branch=3)


def test_the_picture_names_the_cache(plain: Pipeline) -> None:
    (picture,) = with_cache(plain, interval=2).sample(inputs={"class_label": 1}, images=1, steps=2, seed=0)
    (adapter,) = json.loads(picture.metadata["recipe"])["adapters"]
    assert adapter["use"] == "deep_cache" and adapter["interval"] == 2
