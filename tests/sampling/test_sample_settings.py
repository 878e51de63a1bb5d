"""Sampling a trained model otherwise: settings of sampler, guidance and time grid, and what to move away from."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError, DataError, PromptWarning
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.check import misfits
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.settings import with_settings
from ldm_core.testing.base import randomize

TEXT = {"use": "text", "width": 16, "layers": 1, "vocab_size": 64, "length": 16, "dropout": 0.1}
TINY: dict[str, Any] = {
    "image_size": [16, 24],
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1], "heads": 2, "attention": [1], "norm_groups": 8},
    "parameterization": "v",
    "conditioners": [TEXT, {"use": "class_label", "classes": 3, "width": 16, "dropout": 0.1}],
    "guidance": {"use": "cfg", "scale": 2.0},
    "sampler": "ddim",
    "sample": {"steps": 4, "images": 2},
}
CAPTIONS = ["a red circle", "a blue square", "a green star on a white background"]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def pipeline_of(catalog: Catalog, **changes: Any) -> Pipeline:
    """A model of fresh weights, moved so that all inputs count."""
    recipe = resolve({**TINY, **changes}, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    for conditioner in model.conditioners.values():
        if hasattr(conditioner, "fit"):
            conditioner.fit({"caption": c} for c in CAPTIONS * 20)  # type: ignore[operator]
    randomize(model, 3)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


@pytest.fixture(scope="module")
def pipeline(catalog: Catalog) -> Pipeline:
    return pipeline_of(catalog)


def drawn(pipeline: Pipeline, prompt: str = CAPTIONS[0], label: int = 1, **options: Any) -> np.ndarray:
    made = pipeline.sample([prompt] * 2, inputs={"class_label": label}, seed=5, **options)
    return np.stack([m.image for m in made]).astype(int)


# ---------------------------------------------------------------------------------------------------------- settings


def test_settings_are_added_to_a_part_and_another_part_starts_anew(pipeline: Pipeline, catalog: Catalog) -> None:
    recipe = pipeline.recipe
    made = with_settings(recipe, ["guidance.rescale=0.7", "guidance.interval=[0.2, null]", "sampler.eta=1"], catalog)
    assert (made.guidance.config.scale, made.guidance.config.rescale) == (2.0, 0.7)
    assert made.guidance.config.interval == (0.2, None)
    assert made.sampler.config.eta == 1.0
    again = with_settings(made, {"guidance": {"scales": {"text": 5}}, "sample": {"steps": 7}}, catalog)
    assert again.guidance.config.rescale == 0.7 and dict(again.guidance.config.scales) == {"text": 5.0}
    assert (again.sample.steps, again.sample.images) == (7, 2)
    other = with_settings(again, ["sampler=ddpm", "time_grid=legacy", "guidance.use=none"], catalog)
    assert (other.sampler.use, other.time_grid.use, other.guidance.use) == ("ddpm", "legacy", "none")
    fresh = with_settings(other, ["guidance=cfg", "guidance.scale=4"], catalog)
    assert (fresh.guidance.config.scale, fresh.guidance.config.rescale) == (4.0, 0.0)
    assert made.identity() == other.identity() == recipe.identity(), "the model is the same"
    assert with_settings(recipe, {}, catalog) == recipe


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["denoiser.channels=8"],
            "denoiser: is part of the trained model; sampling takes sampler, guidance, guides, time_grid",
        ),
        (["guidence.scale=3"], "guidence: unknown key; did you mean 'guidance'?"),
        (["observers=[wandb]"], "observers: observers are told of training; sampling takes"),
        (["storage.retries=3"], "storage: storage is set by the environment"),
        (["guidance.scal=3"], "guidance.scal: unknown key; did you mean 'scale'?"),
        (["sampler=ddpm", "sampler.eta=1"], "sampler.eta: unknown key (known: variance); sampler is 'ddpm'"),
        (["guidance.scale=much"], "guidance.scale: expected a number, got 'much'"),
        (["guidance.interval=[3, 1]"], "guidance.interval: expected two noise levels sigma / alpha"),
        (["sample.step=3"], "sample.step: unknown key; did you mean 'steps'?"),
        (["sample.prompts=[a]"], "sample.prompts: are for a run's own samples; give `inputs.caption`"),
        (["sampler=ddmi"], "no sampler named 'ddmi'"),
        (["guidance"], "'guidance': expected KEY=VALUE"),
        (["guidance.scales.txt=3"], "names conditioner 'txt', which the recipe does not have; did you mean 'text'?"),
        (["guidance.scale=3", "sampler.eta=2", "sample.steps=0"], "sampler.eta: expected a number from 0 to 1"),
    ],
)
def test_wrong_settings_say_what_is_allowed(given: list[str], said: str, pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline.with_settings(given)
    assert said in str(caught.value)


def test_all_mistakes_at_once(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline.with_settings(["sampler.eta=2", "sample.steps=0", "guidance.scale=x"])
    assert len(caught.value.problems) == 3


def test_a_pipeline_with_settings_shares_the_weights_and_leaves_the_first_as_it_was(pipeline: Pipeline) -> None:
    before = drawn(pipeline)
    other = pipeline.with_settings({"guidance": {"scale": 6.0, "rescale": 0.7}})
    assert other.model is pipeline.model
    after = drawn(other)
    assert np.abs(after - before).max() > 3
    assert np.array_equal(drawn(pipeline), before)
    assert np.array_equal(drawn(pipeline, guidance=6.0), drawn(other, guidance=6.0)) is False, "rescale stays"
    assert np.array_equal(drawn(pipeline.with_settings(["guidance.scale=6"])), drawn(pipeline, guidance=6.0))
    carried = json.loads(other.sample([CAPTIONS[0]], inputs={"class_label": 0})[0].metadata["recipe"])
    assert carried["guidance"]["rescale"] == 0.7


def test_another_guidance_by_name(pipeline: Pipeline) -> None:
    assert np.array_equal(drawn(pipeline, guidance="none"), drawn(pipeline, guidance=1.0))
    none = pipeline.with_settings({"guidance": "none"})
    with pytest.raises(
        ConfigError, match=r"'none' has no scale; choose one that has: guidance\.use=cfg guidance\.scale=3"
    ):
        drawn(none, guidance=3.0)
    assert np.array_equal(drawn(none, guidance="cfg"), drawn(pipeline, guidance=3.0))


def test_sampling_parts_are_made_once(pipeline: Pipeline) -> None:
    recipe = pipeline.recipe
    assert pipeline._parts(recipe) is pipeline._parts(recipe)
    assert pipeline._parts(recipe) is not pipeline._parts(pipeline.with_settings(["sampler=ddpm"]).recipe)


def test_guidance_names_conditioners_that_are_there_and_were_dropped(catalog: Catalog) -> None:
    def lines(**changes: Any) -> list[str]:
        return [line for line in misfits(resolve({**TINY, **changes}, catalog)) if "guidance" in line]

    assert lines(guidance={"use": "cfg", "scales": {"text": 5.0, "class_label": 1.5}}) == []
    (line,) = lines(guidance={"use": "cfg", "scales": {"txt": 5.0}})
    assert line == (
        "guidance 'cfg' names conditioner 'txt', which the recipe does not have; did you mean 'text'? "
        "(conditioners: text, class_label)"
    )
    never = [TEXT, {**TINY["conditioners"][1], "dropout": 0.0}]
    (line,) = lines(guidance={"use": "cfg", "scales": {"class_label": 5.0}}, conditioners=never)
    assert "needs an estimate without conditioner 'class_label', which is never dropped in training" in line
    assert lines(guidance={"use": "cfg", "scales": {"text": 5.0}}, conditioners=never) == []
    fixed = [TEXT, {**TINY["conditioners"][1], "dropout": 0.0, "null_class": False}]
    (line,) = lines(guidance={"use": "cfg", "scales": {"class_label": 5.0}}, conditioners=fixed)
    assert "names conditioner 'class_label', which has no null" in line


# ---------------------------------------------------------------------------------------------------------- negatives


@pytest.mark.parametrize("scale", [2.5, 6.0])
def test_a_negative_prompt_swaps_the_roles(pipeline: Pipeline, scale: float) -> None:
    """x0(c, n, s) = x0(n, c, 1 - s), where both conditioners have a negative; to the roundings of a picture."""
    a, b = (CAPTIONS[0], 1), (CAPTIONS[1], 2)
    one = drawn(pipeline, *a, negative={"caption": b[0], "class_label": b[1]}, guidance=scale)
    other = drawn(pipeline, *b, negative={"caption": a[0], "class_label": a[1]}, guidance=1 - scale)
    assert np.abs(one - other).max() <= 1
    assert np.abs(one - drawn(pipeline, *a, guidance=scale)).max() > 3


def test_a_negative_of_one_conditioner_leaves_the_nulls_of_the_others(catalog: Catalog, pipeline: Pipeline) -> None:
    from ldm_core.sampling.run import conditions_of

    batch = {"caption": [CAPTIONS[0]], "class_label": torch.tensor([1])}
    plain = conditions_of(pipeline.model, batch)
    away = conditions_of(pipeline.model, batch, {"caption": [CAPTIONS[1]]})
    alone = conditions_of(pipeline.model, {**batch, "caption": [CAPTIONS[1]]})
    assert away.batch is batch
    assert away.null.crossattn is not None and alone.cond.crossattn is not None and plain.null.crossattn is not None
    width = alone.cond.crossattn.shape[1] - 1  # the class is the last token
    assert torch.equal(away.null.crossattn[:, :width], alone.cond.crossattn[:, :width])
    assert torch.equal(away.null.crossattn[:, width:], plain.null.crossattn[:, -1:])
    assert torch.equal(away.cond.crossattn, plain.cond.crossattn)  # type: ignore[arg-type]


def test_negatives_are_gone_through_in_turn_and_recorded(pipeline: Pipeline) -> None:
    inputs = {"class_label": 1}
    both = pipeline.sample([CAPTIONS[0]] * 3, inputs=inputs, seed=5, negative=CAPTIONS[1:])
    assert [m.metadata["negative"] for m in both] == [CAPTIONS[1], CAPTIONS[2], CAPTIONS[1]]
    (alone,) = pipeline.sample(CAPTIONS[0], inputs=inputs, seed=6, negative=CAPTIONS[2])
    assert np.abs(alone.image.astype(int) - both[1].image).max() <= 1
    assert "negative" not in pipeline.sample(CAPTIONS[0], inputs=inputs)[0].metadata
    (other,) = pipeline.sample(CAPTIONS[0], inputs=inputs, negative={"class_label": 2})
    assert json.loads(other.metadata["negative"]) == {"class_label": 2}


def test_negatives_that_would_do_nothing_are_refused(catalog: Catalog, pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="guidance 'cfg at scale 1' makes none; choose one that does"):
        drawn(pipeline, negative="a", guidance=1.0)
    with pytest.raises(ConfigError, match="guidance 'none' makes none"):
        drawn(pipeline, negative="a", guidance="none")
    with pytest.raises(
        DataError, match=r"negative: no conditioner of this model reads 'boxes' \(they read: caption, cl"
    ):
        drawn(pipeline, negative={"boxes": []})
    for nothing, kind in (([], "list"), ({}, "mapping")):
        with pytest.raises(ConfigError, match=f"negative: an empty {kind}"):
            drawn(pipeline, negative=nothing)
    classes = pipeline_of(catalog, conditioners=[TINY["conditioners"][1]])
    with pytest.raises(DataError, match="negative: no conditioner of this model reads 'caption'"):
        classes.sample(inputs={"class_label": 1}, negative="a cat")
    fixed = pipeline_of(catalog, conditioners=[TEXT, {**TINY["conditioners"][1], "null_class": False}])
    with pytest.raises(DataError, match="conditioner 'class_label', which reads 'class_label', is never without"):
        drawn(fixed, negative={"class_label": 2})


def test_a_negative_that_is_too_long_is_told(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="longer than conditioner 'text' takes"):
        drawn(pipeline, negative="a green star on a white background " * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        with pytest.raises(DataError, match="longer than conditioner 'text' takes"):
            drawn(pipeline, negative="a green star on a white background " * 3)
