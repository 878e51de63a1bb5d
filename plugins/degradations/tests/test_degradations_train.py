"""Super-resolution of every factor and inpainting of data without masks: trained, sampled, evaluated by the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from training_runs import TINY, go

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError
from ldm_core.model.degraded import SPOILT, Degraded
from ldm_core.model.parts import data_info, make_dataset
from ldm_core.recipe.check import check
from ldm_core.recipe.resolve import resolve
from ldm_core.training.feed.examples import Examples

CATALOG = Catalog.discover()
FEW: dict[str, Any] = {**TINY["trainer"], "steps": 2, "validate_images": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(6):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((20, 16), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize(("factor", "makes"), [(2, "bsr_light"), (4, "bicubic"), (8, "bsr"), (1, "grey")])
def test_a_small_picture_of_any_factor(factor: int, makes: str, photos: str) -> None:
    """Behind a first stage of stride 1 and one of stride 4 the small picture has its own size, and its plane theirs."""
    for stage in ("identity", "kl_f4"):
        row = {"use": "low_resolution", "factor": factor, "degradation": makes}
        changes = {"conditioners": [row], "dataset": {"use": "folder", "url": photos}, "first_stage": stage}
        recipe = resolve({**TINY, **changes, "scale": "small"}, CATALOG)
        data = make_dataset(recipe, CATALOG)
        check(recipe, data_info(data))
        made = Examples(data, (16, 16), recipe.data, ["image"], Degraded.of(recipe, CATALOG))[1]
        assert made[SPOILT].shape == (3, 16 // factor, 16 // factor)


def test_a_factor_that_does_not_divide_is_told() -> None:
    recipe = resolve({**TINY, "conditioners": [{"use": "low_resolution", "factor": 3}]}, CATALOG)
    with pytest.raises(ConfigError, match="factor is 3, and does not divide pictures of 16x16"):
        check(recipe)


def test_inpainting_of_data_without_masks(photos: str, tmp_path: Path) -> None:
    data = {"use": "folder", "url": photos}
    recipe = resolve({**TINY, "conditioners": ["masked_image"], "dataset": data}, CATALOG)
    with pytest.raises(ConfigError, match="'masked_image' reads 'mask', which dataset 'folder' does not offer"):
        check(recipe, data_info(make_dataset(recipe, CATALOG)))
    row = {"use": "masked_image", "degradation": {"use": "mask_mixture", "thin": 0}}
    watch = go(tmp_path, conditioners=[row], dataset=data, trainer=FEW)
    assert {"samples.png"} <= watch.pictures
    resolved = resolve({**TINY, "conditioners": [row], "dataset": data}, CATALOG)
    made = Examples(
        make_dataset(resolved, CATALOG), (16, 16), resolved.data, ["image", "mask"], Degraded.of(resolved, CATALOG)
    )
    hole = np.where(made[0]["mask"] > 127, 255, 0).repeat(8, 0).repeat(8, 1)
    shown = np.asarray(Image.open(tmp_path / "samples.png"))[..., 0]
    places = [shown[y : y + 128, x : x + 128] for y in range(16) for x in range(130, 150)]
    inside = slice(1, -1)  # of the line around it
    assert any(np.array_equal(place[inside, inside], hole[inside, inside]) for place in places), "it is not shown"
    pipeline = ldm_core.load(str(tmp_path), device="cpu")
    picture = np.random.default_rng(1).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[4:12, 4:12] = 255
    fills = pipeline.sample(inputs={"image": picture, "mask": mask}, images=4)
    assert all(np.array_equal(one.image[:, mask == 0], picture[:, mask == 0]) for one in fills)
    assert len({one.image.tobytes() for one in fills}) == 4  # as many fills of one hole


def test_masks_of_the_data_stay() -> None:
    """The embedded data have masks: nothing is made in their place."""
    recipe = resolve({**TINY, "conditioners": [{"use": "masked_image", "degradation": "half"}]}, CATALOG)
    data = make_dataset(recipe, CATALOG)
    keys = ["image", "mask"]
    own = Examples(data, (16, 16), recipe.data, keys)
    made = Examples(data, (16, 16), recipe.data, keys, Degraded.of(recipe, CATALOG))
    assert np.array_equal(own[0]["mask"], made[0]["mask"]) and recipe.asked(data.keys) == ("image", "mask")


def test_a_run_says_that_masks_of_the_data_stay(tmp_path: Path) -> None:
    row = {"use": "masked_image", "degradation": "half"}
    watch = go(tmp_path, conditioners=[row], trainer={**FEW, "steps": 1}, stages=("first_stage", "denoiser"))
    assert "denoiser: degradation 'half' makes no 'mask', as the data has its own" in watch.messages
