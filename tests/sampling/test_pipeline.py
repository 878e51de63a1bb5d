"""A trained model as one object: sampling, its callback, threads, inputs, metadata, and what it does not import."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from together import together
from torch import nn

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.errors import CheckpointError, ConfigError, DataError, Interrupted, PromptWarning
from ldm_core.model.build import make_first_stage, make_model, make_sampling
from ldm_core.model.fill import device_named
from ldm_core.recipe import artifacts
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Progress
from ldm_core.sampling.run import conditions_of, sample_latents
from ldm_core.testing.base import randomize
from ldm_core.training import workflow

TINY: dict[str, Any] = {
    "image_size": [16, 24],
    "scale": "small",
    "first_stage": {"use": "vq_f4", "channels": 16, "codebook_size": 64},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "parameterization": "v",
    "conditioners": [{"use": "text", "width": 16, "layers": 1, "vocab_size": 128, "length": 24, "dropout": 0.2}],
    "guidance": {"use": "cfg", "scale": 2.0},
    "sampler": "ddim",
    "dataset": {"use": "shapes", "scenes": 24, "val_scenes": 4},
    "first_stage_trainer": {"steps": 2, "images_per_step": 4, "adversarial": False, "lr": 1e-3},
    "trainer": {"steps": 3, "images_per_step": 4, "lr": 0.02, "ema": 0.0, "log_every": 1},
    "sample": {"steps": 3, "images": 2, "batch": 4},
}
PROMPTS = ["a red circle", "a blue star on a white background", "two squares"]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture(scope="module")
def folder(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a few steps; its parameterization keeps untrained latents near 1."""
    recipe, info = workflow.prepare(TINY, catalog)
    out = tmp_path_factory.mktemp("runs") / "first"
    assert workflow.run(recipe, info, catalog, str(out)).status == "done"
    return out


@pytest.fixture()
def pipeline(folder: Path) -> Pipeline:
    """The run, loaded, its weights moved: after so few steps the layers that begin at zero hide the prompt."""
    loaded = ldm_core.load(str(folder), device="cpu")
    randomize(loaded.model, 3)
    return loaded


def images(made: Any) -> np.ndarray:
    return np.stack([s.image for s in made]).astype(int)


# -------------------------------------------------------------------------------------------------- sampling


def test_images_have_the_recipes_size_and_carry_prompt_and_seed(pipeline: Pipeline) -> None:
    made = pipeline.sample(PROMPTS, seed=11, images=4)
    assert [s.image.shape for s in made] == [(3, 16, 24)] * 4 and made[0].image.dtype == np.uint8
    assert [s.prompt for s in made] == [*PROMPTS, PROMPTS[0]]
    assert [s.seed for s in made] == [11, 12, 13, 14]
    assert made[0].picture().size == (24, 16)
    assert len({s.image.tobytes() for s in made}) == 4


def test_an_image_depends_on_its_seed_alone(pipeline: Pipeline) -> None:
    whole = pipeline.sample(PROMPTS, seed=5)
    for batch in (1, 2):
        assert np.abs(images(pipeline.sample(PROMPTS, seed=5, batch=batch)) - images(whole)).max() <= 1
    third = pipeline.sample(PROMPTS[2], seed=[7])
    assert np.abs(images(third)[0] - images(whole)[2]).max() <= 1
    backwards = pipeline.sample(PROMPTS[::-1], seed=[7, 6, 5])
    assert np.abs(images(backwards)[::-1] - images(whole)).max() <= 1
    assert (images(pipeline.sample(PROMPTS[2], seed=[8])) != images(third)).any()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_latents_of_a_batch_are_those_of_single_images(sampler: str, pipeline: Pipeline) -> None:
    recipe = pipeline.with_settings({"sampler": sampler}).recipe
    parts = pipeline._parts(recipe)
    shape = recipe.first_stage.config.latent.shape(recipe.image_size)

    def latents(rows: list[int]) -> torch.Tensor:
        with torch.no_grad():
            conditions = conditions_of(
                pipeline.model, pipeline._batch([{"caption": PROMPTS[i]} for i in rows], pipeline.reads)
            )
        return sample_latents(pipeline.model, parts, conditions, shape, [100 + i for i in rows], 4)

    whole = latents([0, 1, 2])
    assert whole.shape == (3, 3, 4, 6)
    for i in range(3):
        assert float((latents([i])[0] - whole[i]).abs().max()) <= 1e-5


def test_guidance_acts(pipeline: Pipeline) -> None:
    made = [images(pipeline.sample(PROMPTS, seed=5, guidance=g)) for g in (1.0, 2.0, 30.0)]
    assert (images(pipeline.sample(PROMPTS, seed=5)) == made[1]).all(), "the recipe's own scale is the default"
    assert (made[0] != made[2]).any() and (made[1] != made[2]).any()
    # scale 0 is the unconditional estimate: the prompt has no say
    a, b = (images(pipeline.sample(p, seed=5, guidance=0.0)) for p in PROMPTS[:2])
    assert np.abs(a - b).max() <= 1


def test_branches_apart_are_branches_together(pipeline: Pipeline) -> None:
    import attrs

    together = images(pipeline.sample(PROMPTS, seed=5))
    settings = attrs.evolve(pipeline.recipe.sample, branches="apart")
    pipeline = pipeline.with_recipe(attrs.evolve(pipeline.recipe, sample=settings))
    assert np.abs(images(pipeline.sample(PROMPTS, seed=5)) - together).max() <= 1


def test_the_callback_is_told_of_each_step_and_can_cancel(pipeline: Pipeline) -> None:
    told: list[Progress] = []
    pipeline.sample(PROMPTS, steps=4, batch=2, callback=told.append)
    assert [p.step for p in told] == list(range(1, 9)) and {p.steps for p in told} == {8}
    assert [p.images for p in told] == [0] * 4 + [2] * 4 and {p.total for p in told} == {3}

    with pytest.raises(Interrupted):
        pipeline.sample(PROMPTS, steps=4, callback=lambda p: p.step < 2)

    def stop(progress: Progress) -> None:
        raise KeyError(progress.step)

    with pytest.raises(KeyError, match="1"):
        pipeline.sample(PROMPTS, steps=4, callback=stop)
    assert (images(pipeline.sample(PROMPTS)) == images(pipeline.sample(PROMPTS))).all(), "a cancelled run left a trace"


def test_threads_sample_what_one_after_the_other_gives(pipeline: Pipeline) -> None:
    jobs = [(PROMPTS[i % 3], i, (1.0, 2.0, 5.0)[i % 3], ("ddim", "ddpm")[i % 2]) for i in range(12)]

    def work(job: tuple[str, int, float, str]) -> np.ndarray:
        prompt, seed, guidance, sampler = job
        chosen = pipeline.with_settings({"sampler": sampler})
        return chosen.sample(prompt, seed=seed, guidance=guidance, steps=3)[0].image

    serial = [work(job) for job in jobs]
    for a, b in zip(serial, together(partial(work, job) for job in jobs), strict=True):
        assert (a == b).all()


def test_sampling_leaves_the_global_generator_alone(pipeline: Pipeline) -> None:
    before = torch.get_rng_state()
    pipeline.with_settings({"sampler": "ddpm"}).sample(PROMPTS)
    assert torch.equal(before, torch.get_rng_state())


def test_reconstruction_goes_through_the_first_stage(pipeline: Pipeline) -> None:
    given = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), dtype=np.uint8)
    whole = pipeline.reconstruct(given)
    assert whole.shape == given.shape and whole.dtype == np.uint8
    assert np.abs(pipeline.reconstruct(given, batch=1).astype(int) - whole.astype(int)).max() <= 1
    with pytest.raises(ValueError, match=r"18.*4"):
        pipeline.reconstruct(given[:, :, :, :18])
    with pytest.raises(DataError, match=r"uint8 values \(channels, height, width\).*\(16, 24, 3\)"):
        pipeline.reconstruct(given.transpose(0, 2, 3, 1))  # height, width, channels, as Pillow's arrays are
    as_pictures = [Image.fromarray(each.transpose(1, 2, 0)) for each in given]
    assert np.array_equal(pipeline.reconstruct(as_pictures), whole)


# ---------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, DataError, r"needs a caption \(key 'caption', read by conditioner 'text'; .*\): give `inputs.caption`"),
        ({"prompts": "a", "inputs": {"boxes": []}}, DataError, r"reads 'boxes' \(they read: caption\)"),
        ({"prompts": "a", "steps": 5000}, ConfigError, "steps=5000: 5000 steps: the schedule's table has 1000"),
        ({"prompts": ["a", "b"], "seed": [1, 2, 3]}, ConfigError, None),
        ({"prompts": "a", "images": 2, "seed": [1]}, ConfigError, "1 seeds were given for 2 images"),
        ({"prompts": "a", "guidance": float("nan")}, ConfigError, "guidance=nan: expected a finite scale"),
        ({"prompts": "a", "steps": 0}, ConfigError, "steps=0: expected a whole number above 0"),
        ({"prompts": "a", "batch": -1}, ConfigError, "batch=-1: expected"),
        ({"prompts": "a", "images": 0}, ConfigError, "images=0: expected"),
        ({"inputs": [{"caption": "a"}, {}]}, DataError, "this model needs a caption"),
        ({"prompts": "a", "sampler": "dim"}, TypeError, "'sampler' any more; choose it by pipeline.with_settings"),
        ({"prompts": "a", "examples": [{}]}, TypeError, "no 'examples' any more; give `inputs` a list of mappings"),
        ({"prompts": "a", "done": print}, TypeError, "for batch in pipeline.stream"),
        ({"prompts": "a", "stpes": 2}, TypeError, "unexpected keyword argument 'stpes'; did you mean 'steps'"),
        ({"prompt": "a"}, TypeError, "unexpected keyword argument 'prompt'; did you mean 'prompts'"),
    ],
)
def test_what_cannot_be_is_answered_with_the_fix(
    arguments: dict[str, Any], error: type[Exception], message: str | None, pipeline: Pipeline
) -> None:
    if message is None:  # three seeds ask for three images: the prompts are gone through in turn
        assert [s.prompt for s in pipeline.sample(**arguments)] == ["a", "b", "a"]
        return
    with pytest.raises(error, match=message):
        pipeline.sample(**arguments)


@pytest.mark.parametrize("name", ["foo", "cpu:x", "cuda:99"])
def test_a_device_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used here .*; try cpu"):
        device_named(name)
    assert device_named("cpu") == torch.device("cpu")


def test_the_weights_move_to_a_device_together(catalog: Catalog) -> None:
    recipe = resolve({**TINY, "conditioners": [{"use": "class_label", "classes": 3, "width": 16}]}, catalog)
    stage = make_first_stage(recipe, catalog)
    own = Pipeline(recipe, stage, make_model(recipe, catalog, stage), catalog)
    before = own.sample(inputs={"class_label": 2}, images=1, steps=2)[0].image
    assert own.to("cpu") is own
    assert (own.sample(inputs={"class_label": 2}, images=1, steps=2)[0].image == before).all()
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used here"):
        own.to("cuda:99")
    own.to(torch.device("meta"))  # a device without memory, on every machine; nothing comes back from it
    moved = [each for part in (own.model, cast(nn.Module, own.stage)) for each in part.state_dict().values()]
    assert {each.device.type for each in moved} == {"meta"} and own.device == torch.device("meta")


def test_a_prompt_that_is_cut_is_quoted(pipeline: Pipeline) -> None:
    long = 2 * "a red circle above a blue star beside a green ring below a yellow square on a plain white background "
    with pytest.warns(UserWarning, match="longer than conditioner 'text' takes; cut off: '.*white background"):
        pipeline.sample(long)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        with pytest.raises(DataError, match="cut off"):
            pipeline.sample(long)
        pipeline.sample("a ring")


def test_what_a_conditioner_leaves_out_is_told(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    conditioner = pipeline.model.conditioners["text"]
    monkeypatch.setattr(conditioner, "omitted", lambda example: f"half of '{example['caption']}'", raising=False)
    with pytest.warns(UserWarning, match="conditioner 'text' leaves out half of 'a ring'"):
        pipeline.sample("a ring")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        with pytest.raises(DataError, match="half of 'a ring'"):
            pipeline.sample("a ring")


def test_weights_whose_header_does_not_fit_are_called_damaged(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    del header[next(key for key in header if key != "__metadata__")]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged \(.*\); copy it again"):
        ldm_core.load(str(tmp_path / "run"), device="cpu")


def test_inputs_and_examples_are_two_ways_to_say_it(pipeline: Pipeline) -> None:
    by_prompt = images(pipeline.sample("a ring", seed=3))
    assert (images(pipeline.sample(inputs={"caption": "a ring"}, seed=3)) == by_prompt).all()
    assert (images(pipeline.sample(inputs=[{"caption": "a ring"}], seed=3)) == by_prompt).all()
    several = pipeline.sample(inputs=[{"caption": prompt} for prompt in PROMPTS], seed=5)
    assert (images(several) == images(pipeline.sample(PROMPTS, seed=5))).all()


def test_all_arguments_are_shown() -> None:
    names = "self prompts inputs images steps guidance preset negative start whole seed batch callback"
    for method in (Pipeline.sample, Pipeline.stream):
        assert list(inspect.signature(method).parameters) == names.split()


def test_a_stream_gives_each_batch_as_it_is_done(pipeline: Pipeline) -> None:
    told: list[int] = []
    batches = pipeline.stream(PROMPTS, seed=5, batch=2, callback=lambda p: told.append(p.step))
    assert not told, "nothing is sampled before it is asked for"
    first = next(batches)
    assert [s.seed for s in first] == [5, 6] and told == [1, 2, 3]
    assert [s.seed for s in next(batches)] == [7] and next(batches, None) is None
    whole = pipeline.sample(PROMPTS, seed=5, batch=2)
    assert (first[0].image == whole[0].image).all()
    with pytest.raises(ConfigError, match="steps=0"):
        pipeline.stream(PROMPTS, steps=0)


# -------------------------------------------------------------------------------------------------- metadata


def test_a_png_tells_what_it_was_made_from(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    made = pipeline.sample("a ring", seed=3, steps=2, guidance=4.0)[0]
    made.save(str(tmp_path / "one.png"))
    assert made._repr_png_() == (tmp_path / "one.png").read_bytes(), "a notebook shows the file"
    with Image.open(tmp_path / "one.png") as picture:
        text = dict(picture.info)
        pixels = np.asarray(picture)
    assert (pixels.transpose(2, 0, 1) == made.image).all()
    assert text["prompt"] == "a ring" and text["seed"] == "3" and text["steps"] == "2"
    assert text["sampler"] == "ddim" and text["guidance"] == "cfg 4"
    assert text["weights_sha256"] == artifacts.sha256(str(folder / "model.safetensors"))
    recipe = resolve(json.loads(text["recipe"]), pipeline.catalog)
    assert recipe.identity() == pipeline.recipe.identity() == text["recipe_sha256"]
    assert recipe.guidance.config.scale == 4.0


def test_a_runs_own_samples_carry_it_too(folder: Path) -> None:
    with Image.open(folder / "samples" / "0000.png") as picture:
        assert picture.info["seed"] == "0" and picture.info["prompt"]
    with Image.open(folder / "samples.png") as grid:
        assert grid.size[0] > 24


# -------------------------------------------------------------------------------------------------- assembly


def test_a_pipeline_from_parts(catalog: Catalog, pipeline: Pipeline) -> None:
    """What the README shows: a model assembled in a few lines, its weights fresh or one's own."""
    recipe = resolve({**TINY, "conditioners": [{"use": "class_label", "classes": 3, "width": 16}]}, catalog)
    stage = make_first_stage(recipe, catalog)
    own = Pipeline(recipe, stage, make_model(recipe, catalog, stage), catalog)
    made = own.sample(inputs={"class_label": 2}, images=2, steps=2)
    assert [s.image.shape for s in made] == [(3, 16, 24)] * 2 and own.reads == ("class_label",)
    assert make_sampling(recipe, catalog, own._site).sampler is not None
    # the trained parts, put together by hand, are the loaded pipeline
    again = Pipeline(pipeline.recipe, pipeline.stage, pipeline.model, catalog)
    assert (images(again.sample(PROMPTS, seed=1)) == images(pipeline.sample(PROMPTS, seed=1))).all()


_PROBE = """
import json, sys
import ldm_core
images = ldm_core.load(sys.argv[1], device="cpu").sample("a ring", steps=2)
heavy = [m for m in ("deepspeed", "timm", "torchvision", "s3fs", "diffusers", "transformers") if m in sys.modules]
print(json.dumps({"images": len(images), "heavy": heavy}))
"""


def test_loading_and_sampling_import_no_training_library(folder: Path) -> None:
    command = [sys.executable, "-c", _PROBE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"images": 1, "heavy": []}
