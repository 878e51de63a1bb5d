"""No window shows in the pictures of a model that has learned: steps across borders are those elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor
from torch.nn import functional as F

from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.model.build import make_first_stage, make_model, make_objective, sampling_site
from ldm_core.nn.tiles.windows import starts
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline

WINDOW = 8
TINY: dict[str, Any] = {
    "image_size": WINDOW,
    "image_channels": 1,
    "first_stage": {"use": "identity", "channels": 1},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 8},
    "parameterization": "v",
    "sampler": "ddim",
    "sample": {"steps": 4, "batch": 64},
}  # fmt: skip


def textures(count: int, random: torch.Generator) -> Tensor:
    """Smooth noise (count, 1, 8, 8) in [-1, 1]."""
    rough, kernel = torch.randn(count, 1, WINDOW + 4, WINDOW + 4, generator=random), torch.tensor([1.0, 2, 3, 2, 1]) / 9
    return (2 * F.conv2d(rough, (kernel[:, None] * kernel)[None, None])).clamp(-1, 1)


def trained(steps: int) -> Pipeline:
    catalog = Catalog.discover()
    recipe = resolve(TINY, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    objective = make_objective(recipe, catalog, sampling_site(recipe, stage))
    optimizer, random = torch.optim.Adam(model.parameters(), 4e-3), torch.Generator().manual_seed(0)
    for step in range(steps):
        streams = Streams(range(32 * step, 32 * step + 32), torch.device("cpu"))
        optimizer.zero_grad()
        objective.loss(model, textures(32, random), Cond(), streams=streams).value.mean().backward()
        optimizer.step()
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


def across(pictures: np.ndarray, borders: list[int]) -> float:
    """The mean step of brightness across columns that windows begin or end at, over that elsewhere inside."""
    steps = np.abs(np.diff(pictures, axis=-1)).mean((0, 1, 2))
    at = np.zeros(len(steps), bool)
    at[[place - 1 for place in borders]] = True
    inside = ~at
    inside[:2] = inside[-2:] = False
    return float(steps[at].mean() / steps[inside].mean())


def test_steps_across_windows_are_those_elsewhere() -> None:
    wide = trained(50).at_size((WINDOW, 40))

    def drawn(overlap: int | None) -> np.ndarray:
        windows = {"use": "multidiffusion", "window": WINDOW, "overlap": overlap}
        pipeline = wide if overlap is None else wide.with_settings({"adapters": {"wide": windows}})
        return np.stack([one.image for one in pipeline.sample(images=64, seed=1)]).astype(float)

    def borders(overlap: int) -> list[int]:
        begins = starts(40, WINDOW, overlap)
        return sorted({place for begin in begins for place in (begin, begin + WINDOW)} - {0, 40})

    whole = drawn(None)
    blended, torn = (across(drawn(n), borders(n)) / across(whole, borders(n)) for n in (WINDOW // 4, 0))
    assert blended <= 1.05 < 1.3 < torn, (blended, torn)
