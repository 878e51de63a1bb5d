"""The pieces of a pipeline: its first stage alone, a sampling loop of one's own, parts without a recipe, threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from assembled import assembled
from PIL import Image
from together import together

import ldm_core
from ldm_core import Catalog, Start
from ldm_core.contracts import Site, TimeGrid
from ldm_core.errors import ComponentError, ConfigError, DataError, LDMError, NotFiniteError, PromptWarning
from ldm_core.sampling.pieces.plan import Plan
from ldm_core.sampling.pipeline import Pipeline

CATALOG = Catalog.discover()
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 24), dtype=np.uint8)
WANTED: dict[str, Any] = {"inputs": {"class_label": 1}, "steps": 4, "seed": [7, 3, 5]}


@pytest.mark.parametrize("stage", ["KL", "VQ"])
def test_a_round_trip_is_the_reconstruction(stage: str) -> None:
    pipeline = assembled(stage)
    latents = pipeline.encode(PICTURES, batch=2)
    assert latents.dtype == torch.float32 and latents.shape[0] == 5 and latents.device == pipeline.device
    assert np.array_equal(pipeline.decode(latents, batch=2), pipeline.reconstruct(PICTURES, batch=2))
    assert np.array_equal(pipeline.decode(latents[0].numpy()), pipeline.reconstruct(PICTURES[:1]))
    one = Image.fromarray(PICTURES[0].transpose(1, 2, 0))
    assert torch.equal(pipeline.encode(one), pipeline.encode(PICTURES[0]))
    assert torch.equal(pipeline.encode([one, PICTURES[1]]), pipeline.encode(PICTURES[:2]))


def test_what_has_no_latents_or_pictures() -> None:
    pipeline = assembled("KL")
    with pytest.raises(ValueError, match=r"18"):
        pipeline.encode(PICTURES[:, :, :, :18])
    with pytest.raises(DataError, match=r"image 1 is of \(16, 16\) and image 0 of \(16, 24\)"):
        pipeline.encode([PICTURES[0], PICTURES[0][:, :, :16]])
    with pytest.raises(DataError, match="image: expected a PIL image or uint8"):
        pipeline.encode(PICTURES[0].astype(np.float32))
    with pytest.raises(DataError, match="images: none"):
        pipeline.encode([])
    with pytest.raises(NotFiniteError, match="latents: the first stage makes NaN of 1 of them"):
        pipeline.decode(torch.stack([pipeline.encode(PICTURES[0])[0], torch.full((3, 4, 6), torch.nan)]))


def own_euler(pipeline: Pipeline, **wanted: Any) -> np.ndarray:
    with pipeline.begin(**wanted) as run:
        x = run.x
        for i, t in enumerate(run.times[:-1]):
            x0 = run.denoise(x, t).x0
            keep = run.sigma[i + 1] / run.sigma[i]
            x = keep * x + (run.alpha[i + 1] - run.alpha[i] * keep) * x0
    return pipeline.decode(x)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_loop_of_ones_own_is_the_sampler_bit_for_bit(guidance: float) -> None:
    pipeline = assembled().with_settings({"sampler": "euler"})
    made = pipeline.sample(**WANTED, guidance=guidance)
    assert np.array_equal(own_euler(pipeline, **WANTED, guidance=guidance), np.stack([s.image for s in made]))
    begun = {**WANTED, "start": Start.image(PICTURES[0][:, :, :16], strength=0.5)}
    made = pipeline.sample(**begun)
    assert np.array_equal(own_euler(pipeline, **begun), np.stack([s.image for s in made]))


def test_a_part_without_a_recipe_takes_the_pieces() -> None:
    pipeline = assembled()
    sampler = CATALOG.make("sampler", "ddim", eta=1.0)
    with pipeline.begin(**WANTED) as run:
        told = {"streams": run.streams, "on_step": run.on_step}
        latents = sampler.sample(run.denoise, run.x, run.times, run.schedule, **told)
    made = pipeline.with_settings({"sampler": {"use": "ddim", "eta": 1.0}}).sample(**WANTED)
    assert np.array_equal(pipeline.decode(latents), np.stack([s.image for s in made]))
    assert len(CATALOG.make("time_grid", "trailing").times(pipeline.schedule, 5)) == 6
    with pytest.raises(ConfigError, match=r"ddim\.etaa: unknown key"):
        CATALOG.make("sampler", "ddim", etaa=1.0)
    with pytest.raises(ComponentError, match="no sampler named 'dim'; did you mean 'ddim'"):
        CATALOG.make("sampler", "dim")


def test_the_parts_of_a_run_see_its_steps() -> None:
    from ldm_core.contracts.run import current_run

    pipeline, seen = assembled(), list[tuple[int, int]]()

    def look(*_: Any) -> None:
        run = current_run()
        assert run is not None
        seen.append((run.step, run.evaluation))

    denoiser: Any = pipeline.model.denoiser
    hook = denoiser.register_forward_pre_hook(look)
    own_euler(pipeline, **WANTED)
    assert [*dict.fromkeys(seen)] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    seen.clear()
    with pipeline.begin(**WANTED) as run:
        heun = CATALOG.make("sampler", "heun")
        heun.sample(run.denoise, run.x, run.times, run.schedule, streams=run.streams, on_step=run.on_step)
    assert [step for step, _ in dict.fromkeys(seen)] == [0, 0, 1, 1, 2, 2, 3]
    hook.remove()


@attrs.frozen(kw_only=True)
class StubbornConfig:
    """No options."""


class Stubborn(TimeGrid):
    """A grid that makes no more than two steps, and says so as it makes them."""

    def __init__(self, config: StubbornConfig, site: Site) -> None:
        self.config = config

    def times(self, schedule: Any, steps: int) -> torch.Tensor:
        if steps > 2:
            raise ValueError("two steps at most")
        return torch.linspace(900, 0, steps + 1, dtype=torch.float64)


def test_a_loop_is_refused_as_it_is_begun() -> None:
    """What `sample` refuses, in its words, at the call."""
    catalog = Catalog.discover()
    catalog.register(Stubborn)
    made = assembled()
    pipeline = Pipeline(made.recipe, made.stage, made.model, catalog).with_settings({"time_grid": "stubborn"})
    for given in ({**WANTED, "steps": 3}, {**WANTED, "steps": 0}, {**WANTED, "inputs": {}}):
        with pytest.raises(LDMError) as told:
            pipeline.sample(**given)
        with pytest.raises(type(told.value)) as begun:
            pipeline.begin(**given)
        assert str(begun.value) == str(told.value)
    with pytest.raises(ConfigError, match="steps=3: two steps at most"):
        pipeline.begin(**{**WANTED, "steps": 3})
    with pytest.raises(TypeError, match=r"begin\(\) got an unexpected keyword argument 'step'"):
        pipeline.begin(step=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("method", ["sample", "stream", "begin"])
def test_a_warning_names_the_callers_line(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = assembled()
    monkeypatch.setattr(Plan, "cut_off", lambda self, model: ["a part of it"])
    with pytest.warns(PromptWarning, match="a part of it") as told:
        getattr(pipeline, method)(inputs={"class_label": 1}, images=1, steps=1)
    assert [warning.filename for warning in told] == [__file__]


def test_gradients_pass_through_a_loop() -> None:
    pipeline = assembled()
    with pipeline.begin(inputs={"class_label": 1}, images=1, steps=2) as run:
        x = run.x.requires_grad_()
        run.denoise(x, run.times[0]).x0.square().sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and float(x.grad.abs().max()) > 0


def test_two_pipelines_in_two_threads() -> None:
    pipelines = [assembled("KL"), assembled("VQ").with_settings({"sampler": "euler"})]
    alone = [[s.image for s in p.sample(**WANTED)] for p in pipelines]

    def work(number: int) -> None:
        for _ in range(3):
            made = pipelines[number].sample(**WANTED)
            assert all(np.array_equal(s.image, a) for s, a in zip(made, alone[number], strict=True))
            assert np.array_equal(own_euler(pipelines[1], **WANTED), np.stack(alone[1]))

    together(partial(work, number) for number in (0, 1))


def test_objects_are_shown_on_a_line() -> None:
    pipeline = assembled()
    (made,) = pipeline.sample(inputs={"class_label": 1}, images=1, steps=1, seed=3)
    assert repr(made) == "Sampled('', seed=3, 16x16)"
    assert repr(pipeline).startswith("Pipeline(") and "16x16, cpu)" in repr(pipeline)
    said = {"first_stage": "vq_f4", "conditioners": [{"use": "text"}, "class_label"], "seed": 3, "image_size": 16}
    assert repr(ldm_core.Recipe(said)) == "Recipe(first_stage=vq_f4, conditioners=text+class_label, and 2 more)"
    assert "Start(kind='image', strength=0.5" in repr(Start.image(PICTURES, strength=0.5))
