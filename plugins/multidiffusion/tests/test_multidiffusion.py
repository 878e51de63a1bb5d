"""MultiDiffusion: the whole where a network sees single cells, conditions cut along, runs of every sampler."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_multidiffusion.adapter import MultiDiffusion
from ldm_plugin_multidiffusion.config import MultiDiffusionConfig
from one_thread import each_module as _one_thread  # noqa: F401
from together import together
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond, DenoiserConfig, SamplingRun, evaluation
from ldm_core.contracts.run import in_run
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.diffusion import Model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing import toys
from ldm_core.testing.base import randomize


@attrs.frozen(kw_only=True)
class OfCellsConfig(DenoiserConfig):
    factor = 2


class OfCells(Denoiser, nn.Module):
    """Looks at single cells, so that windows of a map make the very map; keeps what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.config = OfCellsConfig()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        now = evaluation()
        assert now is not None and now.cond is cond and now.grid == tuple(x.shape[2:])
        assert len(now.noise_level) == len(now.t) == len(noise_level) == len(x)
        self.seen.append((tuple(x.shape), id(cond)))
        out = self.weight * torch.sin(x) + noise_level.view(-1, 1, 1, 1)
        if cond.crossattn is not None:
            out = out + cond.crossattn.mean((1, 2)).view(-1, 1, 1, 1)
        if cond.concat is not None:
            out = out * cond.concat[:, :1]
        for value in cond.residuals.values():
            out = out + nn.functional.interpolate(value, x.shape[2:])
        return torch.cat([out, 2 * out], 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapted(**settings: Any) -> tuple[Model, Model]:
    """A model of single cells without and with the adapter."""
    model = toys.toy_model(denoiser=OfCells())
    return model, model.beside({"wide": MultiDiffusion(MultiDiffusionConfig(**settings))})


@pytest.mark.parametrize("size", [(16, 16), (14, 40), (4, 30), (6, 8)])
@pytest.mark.parametrize("settings", [{"window": 8, "overlap": 3}, {"window": (4, 12), "overlap": 0, "batch": 1}])
def test_a_network_of_single_cells_gives_the_whole(size: tuple[int, int], settings: dict[str, Any]) -> None:
    """Planes and residuals are cut where the latents are; tokens and levels stand beside their rows."""
    model, wide = adapted(**settings)
    x, t = normal(3, 3, *size), torch.tensor([100.0, 500.0, 900.0])
    cond = Cond(
        crossattn=normal(3, 5, 4, seed=1),
        concat=normal(3, 2, *size, seed=2),
        residuals={"mid": normal(3, 3, size[0] // 2, size[1] // 2, seed=3)},
    )
    with torch.no_grad():
        whole, found = model(x, t, cond), wide(x, t, cond)
    assert found.extra is not None and whole.extra is not None
    assert torch.allclose(found.x0, whole.x0, atol=1e-4, rtol=1e-4)
    assert torch.allclose(found.extra, whole.extra, atol=1e-4, rtol=1e-4)


def test_latents_within_a_window_are_left_alone() -> None:
    model, wide = adapted(window=8, overlap=4)
    x, t = normal(2, 3, 8, 6), torch.tensor([100.0, 500.0])
    with torch.no_grad():
        assert torch.equal(wide(x, t, Cond()).x0, model(x, t, Cond()).x0)


def test_windows_are_batched_up_to_the_number() -> None:
    _, wide = adapted(window=8, overlap=4, batch=6)
    with torch.no_grad():
        wide(normal(2, 3, 8, 32), torch.tensor([100.0, 500.0]), Cond())
    seen: Any = wide.denoiser
    assert [shape for shape, _ in seen.seen] == [(6, 3, 8, 8), (6, 3, 8, 8), (2, 3, 8, 8)]  # 7 windows of 2 images


def test_bundles_of_windows_last_for_the_run() -> None:
    """Parts that keep things by the bundle, as a cache of features does, find the same one at each step."""
    _, wide = adapted(window=8, overlap=4, batch=2)
    seen: Any = wide.denoiser
    x, t, cond = normal(1, 3, 8, 20), torch.tensor([100.0]), Cond(crossattn=normal(1, 5, 4))
    with torch.no_grad(), SamplingRun(torch.tensor([2.0, 1.0], dtype=torch.float64)) as run, in_run(run):
        for _ in range(3):
            wide(x, t, cond)
        numbers = [number for _, number in seen.seen]
    assert len(set(numbers)) == 2 and numbers[:2] * 3 == numbers


def test_gradients_pass() -> None:
    _, wide = adapted(window=8, overlap=4)
    x = normal(1, 3, 8, 20).requires_grad_()
    wide(x, torch.tensor([100.0]), Cond()).x0.square().sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 8, "overlap": 8}, "overlap: 8 cells, and a window has 8; choose fewer"),
        ({"window": (16, 4), "overlap": 5}, "overlap: 5 cells, and a window has 4"),
        ({"window": 0, "overlap": 0}, "window: expected latent cells, from 1"),
    ],
)
def test_impossible_windows_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiDiffusionConfig(**settings)


def test_a_window_beside_the_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match="window 7 is not divisible by the denoiser's factor 2"):
        adapted(window=7, overlap=2)


def test_residuals_between_windows_are_refused() -> None:
    _, wide = adapted(window=8, overlap=4)
    cond = Cond(residuals={"mid": normal(1, 3, 3, 5)})
    with torch.no_grad(), pytest.raises(ConfigError, match="residuals of site mid"):
        wide(normal(1, 3, 16, 20), torch.tensor([100.0]), cond)


# -------------------------------------------------------------------------------------------------------------- runs

TINY: dict[str, Any] = {
    "image_size": [16, 48],
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 4},
    "conditioners": [{"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}, "low_resolution"],
    "guidance": {"use": "cfg", "scale": 3.0},
    "sample": {"steps": 3, "images": 2},
}  # fmt: skip
WIDE: dict[str, Any] = {"adapters": {"wide": {"use": "multidiffusion", "window": 16, "overlap": 8}}}


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    catalog = Catalog.discover()
    recipe = resolve(TINY, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    randomize(model, 3)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


def drawn(pipeline: Pipeline, seed: int = 5) -> np.ndarray:
    picture = (normal(3, 16, 48).clamp(-1, 1) * 127.5 + 127.5).byte().numpy()
    made = pipeline.sample(inputs={"class_label": 1, "image": picture}, images=2, steps=3, seed=seed)
    return np.stack([each.latents for each in made if each.latents is not None])


@pytest.mark.parametrize("sampler", ["ddpm", "heun", "dpm_solver_pp_2m"])
def test_it_goes_with_guidance_and_any_sampler(sampler: str, plain: Pipeline) -> None:
    other = plain.with_settings({"sampler": sampler})
    bare, wide = drawn(other), drawn(other.with_settings(WIDE))
    assert np.isfinite(wide).all() and np.abs(wide - bare).max() > 1e-3
    assert np.array_equal(bare, drawn(other)), "the pipeline without it stays as it is"


def test_several_threads_have_the_bits_of_each_alone(plain: Pipeline) -> None:
    wide = plain.with_settings(WIDE)
    alone = [drawn(wide, seed) for seed in (1, 2)]
    at_once = together([partial(drawn, wide, 1), partial(drawn, wide, 2), partial(drawn, plain, 1)])
    assert np.array_equal(at_once[0], alone[0]) and np.array_equal(at_once[1], alone[1])
    assert np.array_equal(at_once[2], drawn(plain, 1))


def test_settings_are_read_as_on_the_command_line(plain: Pipeline) -> None:
    wide = plain.with_settings(
        ["adapters.wide.use=multidiffusion", "adapters.wide.window=[8,16]", "adapters.wide.overlap=4"]
    )
    (part,) = wide.recipe.adapters
    assert part.config.sides == (8, 16) and part.config.overlap == 4  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="choose fewer"):
        plain.with_settings(["adapters.wide.use=multidiffusion", "adapters.wide.window=8"])
