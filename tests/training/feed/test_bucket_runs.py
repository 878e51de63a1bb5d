"""Runs in several image sizes and with random cuts, and what the check says of recipes that cannot have them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from training_runs import TINY, go

from ldm_core.catalog import Catalog
from ldm_core.data.images import png_bytes
from ldm_core.errors import ConfigError
from ldm_core.recipe.check import check
from ldm_core.recipe.resolve import resolve


def pictures(folder: Path) -> str:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(18):
        height, width = ((20, 20), (18, 40), (40, 20))[i % 3]
        (folder / f"{i:02d}.png").write_bytes(png_bytes(rng.integers(0, 256, (3, height, width), dtype=np.uint8)))
    return str(folder)


def problems(**data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, "data": data}, Catalog.discover()))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("cached", [True, False])
def test_a_run_in_three_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    from ldm_core.training.denoiser import task

    seen: Counter[tuple[int, ...]] = Counter()
    step = task.DenoiserTask.step

    def spy(self: Any, number: int, micros: Any, *, measure: bool) -> Any:
        for micro in micros:
            batch = micro.batch["moments" if cached else "image"]
            seen[tuple(batch.shape[-2:])] += 1
            assert {p.size for p in micro.places} == {tuple(batch.shape[-2:])}  # the identity stage keeps sizes
        return step(self, number, micros, measure=measure)

    monkeypatch.setattr(task.DenoiserTask, "step", spy)
    watch = go(
        tmp_path / "run",
        "trainer.steps=9",
        f"trainer.cache_latents={str(cached).lower()}",
        "data.buckets=[[8, 16], [16, 8]]",
        "data.flip=true",
        dataset={"use": "folder", "url": pictures(tmp_path / "data")},
    )
    assert ("denoiser", "done") in watch.ends and ("samples", "done") in watch.ends
    assert len(seen) == 3 and set(seen.values()) == {3}


def test_a_run_with_random_cuts_encodes_at_each_step(tmp_path: Path) -> None:
    watch = go(
        tmp_path / "run",
        "data.crop=random",
        "data.crop_scale=0.6",
        dataset={"use": "folder", "url": pictures(tmp_path / "data")},
    )
    assert ("denoiser", "done") in watch.ends
    assert any("data.crop=random" in m for m in watch.messages)


def test_settings_that_do_nothing_are_told() -> None:
    assert "data.crop: random cuts need data.fit=crop, it is pad" in problems(crop="random", fit="pad")
    assert "data.crop_scale: 0.5 is for random cuts; set data.crop=random" in problems(crop_scale=0.5)
    twice = problems(buckets=[[32, 16], [32, 16]])
    assert "data.buckets[1]: [32, 16] is there twice" in twice
    assert "data.buckets[0]: expected [height, width] in pixels, got [0, 16]" in problems(buckets=[[0, 16]])


def test_every_size_must_fit_every_part() -> None:
    catalog = Catalog.discover()
    plain = {**TINY, "first_stage": "vq_f8", "image_size": 64, "data": {"buckets": [[64, 96], [60, 64]]}}
    with pytest.raises(ConfigError) as caught:
        check(resolve(plain, catalog))
    (line,) = [p for p in caught.value.problems if p.startswith("data.buckets")]
    assert line.startswith("data.buckets[1] [60, 64]: image size 60 is not divisible by the first stage's factor 8")
    levels = {**TINY, "denoiser": {"use": "unet", "channels": 32, "channel_mult": [1, 2, 2], "attention": []}}
    with pytest.raises(ConfigError) as caught:
        check(resolve({**levels, "image_size": 16, "data": {"buckets": [[16, 18]]}}, catalog))
    assert any(p.startswith("data.buckets[0] [16, 18]: denoiser 'unet': latent size") for p in caught.value.problems)


def test_a_part_may_say_that_it_takes_one_size_only() -> None:
    recipe = resolve({**TINY, "image_size": 16, "data": {"buckets": [[16, 32]]}}, Catalog.discover())
    check(recipe)

    @attrs.frozen
    class Fixed(type(recipe.denoiser.config)):  # type: ignore[misc]
        fixed_size: ClassVar[bool] = True

    values = {a.name: getattr(recipe.denoiser.config, a.name) for a in attrs.fields(type(recipe.denoiser.config))}
    fixed = attrs.evolve(recipe, denoiser=attrs.evolve(recipe.denoiser, config=Fixed(**values)))
    with pytest.raises(ConfigError, match=r"denoiser 'unet' is built for one image size, and data\.buckets asks for 2"):
        check(fixed)
