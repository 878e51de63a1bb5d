"""What is said to a key, an option or a number that is none of ours: the right name, the range, in one line."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
import yaml
from test_cli_assemble import catalog, plain

from ldm_core.config.key_hints import _WORDS, _WORDS_OF_SAMPLING, ARGUMENTS
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import structure
from ldm_core.errors import ConfigError
from ldm_core.recipe.check import remarks
from ldm_core.recipe.keys import SECTIONS, SINGLE
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.settings import TrainerSettings
from ldm_core.recipe.shipped import load_plain
from ldm_core.sampling.settings import with_settings


def mistakes(*settings: str, **values: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {"image_size": 32, "scale": "small", **values}
    apply_overrides(given, settings, SINGLE)
    with pytest.raises(ConfigError) as caught:
        resolve(given, catalog([]))
    return caught.value.problems


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("lr=1", "trainer.lr"),
        ("learning_rate=1", "trainer.lr"),
        ("Learning-Rate=1", "trainer.lr"),
        ("batch_size=4", "trainer.images_per_step"),
        ("epochs=3", "trainer.steps"),
        ("steps=3", "trainer.steps"),
        ("max_train_steps=3", "trainer.steps"),
        ("num_workers=3", "data.workers"),
        ("resolution=64", "image_size"),
        ("images_per_step=3", "trainer.images_per_step"),
        ("codebook_start=3", "stage_objective.codebook_start"),
        ("endpoint_url=x", "storage.endpoint_url"),
        ("guidance_scale=3", "guidance.scale"),
        ("vae=kl_f8", "first_stage"),
        ("denoisr=unet", "denoiser"),
        ("prompt=x", "sample.prompts"),
        ("url=x", "dataset.url"),
        ("trainer.batch_size=3", "images_per_step"),
        ("trainer.learning_rate=3", "lr"),
        ("trainer.epochs=3", "steps"),
        ("trainer.num_workers=3", "data.workers"),
        ("trainer.stepz=3", "steps"),
        ("first_stage_trainer.batch_size=3", "images_per_step"),
        ("first_stage_trainer.base_lr=3", "lr"),
        ("sample.guidance_scale=3", "guidance.scale"),
        ("sample.num_inference_steps=3", "steps"),
        ("data.num_workers=3", "workers"),
        ("denoiser.lr=3", "trainer.lr"),
        ("denoiser.model_channels=3", "channels"),
    ],
)
def test_a_wrong_key_names_the_right_one(setting: str, meant: str) -> None:
    key = setting.partition("=")[0]
    (line,) = mistakes(setting)
    assert line.startswith(f"{key}: unknown key; did you mean '{meant}'?"), line
    assert ("steps are counted" in line) == ("epochs" in key)
    first, _, rest = key.partition(".")
    assert mistakes(**{first: {rest: 1} if rest else 1})[0].startswith(f"{key}: unknown key; did you mean '{meant}'?")


def test_every_name_that_is_meant_exists() -> None:
    """The tables name real settings."""
    known = load_plain("laptop") | resolve({"image_size": 32, "scale": "small"}, catalog([])).plain()
    for target in {**_WORDS, **_WORDS_OF_SAMPLING}:
        section, _, key = target.partition(".")
        assert section in known, target
        if section in SECTIONS and key:
            assert key in {field.name for field in attrs.fields(SECTIONS[section])}, target


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_given_beside_a_recipe_is_named_by_its_argument(name: str) -> None:
    for word in ARGUMENTS[name].split():
        assert mistakes(f"{word}=3")[0].startswith(f"{word}: unknown key; did you mean `{name}`?")


@pytest.mark.parametrize(
    ("setting", "meant"),
    [("steps=4", "sample.steps"), ("scale=3", "guidance.scale"), ("cfg=3", "guidance.scale"), ("eta=1", "sampler.eta")],
)
def test_wrong_keys_of_sampling(setting: str, meant: str) -> None:
    recipe = resolve({"image_size": 32, "scale": "small"}, catalog([]))
    with pytest.raises(ConfigError, match=f"unknown key; did you mean '{meant}'"):
        with_settings(recipe, [setting], catalog([]))


def test_data_that_is_no_section() -> None:
    (line,) = mistakes("data=photos")
    assert "`dataset=photos`" in line


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("text", "value"), [("1e5", 100_000), ("2.5e3", 2500), ("1E+6", 10**6), ("300.0", 300)])
def test_whole_numbers_as_people_write_them(text: str, value: int) -> None:
    given: dict[str, Any] = {}
    apply_overrides(given, [f"trainer.steps={text}"], ())
    found = structure(given["trainer"], TrainerSettings, "trainer")
    assert found.steps == value and type(found.steps) is int


@pytest.mark.parametrize("text", ["1.5", "1e-5", "2.0", "1e30", ".inf", ".nan", "true", "'100'", "null", "1e2.5"])
def test_what_is_no_whole_number(text: str) -> None:
    (line,) = mistakes(f"trainer.steps={text}")
    assert line.startswith("trainer.steps: expected an integer, got ")


def test_a_list_without_its_brackets() -> None:
    (line,) = mistakes("trainer.betas=0.9,0.99")
    assert line.endswith("lists stand in brackets: '[0.9,0.99]'")
    given: dict[str, Any] = {}
    apply_overrides(given, ["trainer.betas=[0.9,0.99]"], ())
    assert structure(given["trainer"], TrainerSettings, "").betas == (0.9, 0.99)


HUGE = "1" + "0" * 390


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.steps=0",
        "trainer.steps=-1",
        f"trainer.steps={HUGE}",
        "trainer.images_per_step=1e9",
        "trainer.accumulate=1e9",
        "trainer.lr=0",
        "trainer.lr=1e9",
        f"trainer.lr={HUGE}",
        f"trainer.ema_power=[{HUGE}]",
        "trainer.warmup_steps=-1",
        "trainer.time_limit=1e300",
        f"data.keep={HUGE}",
        "data.workers=1e6",
        "data.workers=-1",
        "stage_objective.huber_delta=0",
        f"stage_objective.regularization_weight={HUGE}",
        "sample.steps=1e9",
        "sample.images=1e9",
        "sample.batch=1e9",
        "sample.batch=0",
        f"sample.seed={HUGE}",
        "sample.seed=-1",
        "storage.connect_timeout=1e300",
        f"storage.retries={HUGE}",
        "schedule.steps=1e9",
        "dataset.scenes=1e12",
        "image_size=1e9",
        "image_size=[64, 1000000]",
        f"image_size={HUGE}",
        "image_size=0",
        "image_size=-64",
        "image_channels=1e9",
    ],
)
def test_numbers_beyond_any_use(setting: str) -> None:
    lines = mistakes(setting)
    assert len(lines) == 1 and lines[0].startswith(setting.partition("=")[0]) and "expected" in lines[0], lines
    assert "\n" not in lines[0] and len(lines[0]) < 250 and HUGE not in lines[0]


# ---------------------------------------------------------------------------------------------------- remarks


def test_a_discriminator_that_never_comes_in() -> None:
    from ldm_core.catalog import Catalog

    installed = Catalog.discover()
    if "vq_f4" not in installed.names("first_stage"):
        pytest.skip("no first stage with a discriminator is installed")
    for key, value, said in (
        ("adversarial_start", 30, True),
        ("adversarial_start", 20, True),
        ("adversarial_start", 19, False),
        ("adversarial_start_share", 0.5, False),
        ("adversarial", False, False),
    ):
        own = {"steps": 20, "adversarial_start": 30 if key == "adversarial" else None, key: value}
        trainer = {k: v for k, v in own.items() if v is not None}
        given = {"image_size": 32, "scale": "small", "first_stage": "vq_f4", "first_stage_trainer": trainer}
        lines = list(remarks(resolve(given, installed)))
        assert bool(lines) == said and all("discriminator never comes in" in line for line in lines)


def test_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for workers, said in ((0, False), (2, False), (3, True)):
        recipe = resolve({"image_size": 32, "scale": "small", "data": {"workers": workers}}, catalog([]))
        assert [f"{workers} loader processes share 2 cores" in line for line in remarks(recipe)] == [True] * said
    from torch.utils.data import DataLoader

    from ldm_core.training.feed.loader import workers_as_asked

    with workers_as_asked():
        DataLoader([1], num_workers=500)  # type: ignore[arg-type]
    assert not recwarn.list


def test_all_that_is_not_installed_in_one_line() -> None:
    given = plain(parts=[], first_stage="vq_f4", sampler="ddim", guidance="cfg", cond=("text", "bbox_layout"))
    with pytest.raises(ConfigError) as caught:
        resolve(given, catalog([]))
    last = caught.value.problems[-1]
    assert last == (
        "all that is not installed: pip install ldm-plugin-vq-ae ldm-plugin-ddim ldm-plugin-cfg "
        "ldm-plugin-bert-text ldm-plugin-bbox"
    )
    assert not any("all that is" in line for line in mistakes("sampler=ddim"))


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("guidance={use:cfg}", "use: cfg"),
        ("guidance={use: cfg, scale:3}", "scale: 3"),
        ("conditioners=[{use:text}]", "use: text"),
        ("adapters={cache:{use:deep_cache}}", "use: deep_cache"),
        ("dataset={url:s3://bucket/folder}", "url: s3://bucket/folder"),
    ],
)
def test_a_missing_space_after_a_colon_is_named(setting: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({}, [setting], SINGLE)
    assert caught.value.problems == (f"'{setting}': a space is missing after the colon; write '{meant}'",)


def test_a_missing_space_is_named_in_a_recipe_too() -> None:
    assert mistakes(guidance={"use:cfg": None}) == (
        "guidance.use:cfg: unknown key; a space is missing after the colon: 'use: cfg'",
    )


@pytest.mark.parametrize("value", ["{'a:b': 1}", "{http://x}", "[use:cfg]", "'use:cfg'", "{a: }", "{1: }"])
def test_other_colons_are_read_as_they_are(value: str) -> None:
    given: dict[str, Any] = {}
    apply_overrides(given, [f"data={value}"], ())
    assert given["data"] == yaml.safe_load(value)
