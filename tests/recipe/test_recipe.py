"""Recipes: resolving, plain values and back, identities, scaling, overrides, and what mistakes are answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from ldm_core.catalog import Catalog
from ldm_core.catalog.component import laptop_site
from ldm_core.config.documents import dump_yaml, parse_yaml
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import digest
from ldm_core.contracts import DataInfo
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe.artifacts import is_weights
from ldm_core.recipe.continuation import continuation
from ldm_core.recipe.keys import SINGLE, without_same
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import load_plain, shipped
from ldm_core.training.workflow import claim

FULL: dict[str, Any] = {
    "image_size": [96, 128],
    "seed": 7,
    "first_stage": "vq_f4",
    "conditioners": ["text", {"use": "class_label", "classes": 4, "dropout": 0.25, "width": 1280}],
    "sampler": {"use": "ddim", "eta": 0.5},
    "guidance": {"use": "cfg", "scale": 2.5},
    "dataset": {"use": "shapes", "scenes": 10},
    "trainer": {"steps": 5, "betas": [0.9, 0.99]},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def problems(plain: Any, catalog: Catalog) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        resolve(plain, catalog)
    return caught.value.problems


def changed(plain: dict[str, Any], *overrides: str) -> dict[str, Any]:
    copy = parse_yaml(dump_yaml(plain), "copy")
    apply_overrides(copy, overrides, SINGLE)
    return copy


def test_an_empty_recipe_is_the_built_in_parts(catalog: Catalog) -> None:
    recipe = resolve({}, catalog)
    assert {k: getattr(recipe, k).use for k in SINGLE} == {
        "first_stage": "identity",
        "stage_objective": "reconstruction",
        "denoiser": "unet",
        "schedule": "vp",
        "parameterization": "eps",
        "objective": "simple",
        "time_grid": "trailing",
        "sampler": "ddpm",
        "guidance": "none",
        "dataset": "shapes",
    }
    assert recipe.image_size == (256, 256) and recipe.image_channels == 3
    assert (*recipe.conditioners, *recipe.adapters, *recipe.observers) == ()


def test_values_arrive_where_they_belong(catalog: Catalog) -> None:
    recipe = resolve(FULL, catalog)
    assert recipe.image_size == (96, 128) and recipe.seed == 7
    assert recipe.first_stage.use == "vq_ae" and recipe.first_stage.asked == "vq_f4"
    assert [c.name for c in recipe.conditioners] == ["text", "class_label"]
    assert [c.dropout for c in recipe.conditioners] == [0.0, 0.25]
    assert recipe.conditioners[1].config.classes == 4
    assert recipe.sampler.config.eta == 0.5 and recipe.guidance.config.scale == 2.5
    assert recipe.trainer.betas == (0.9, 0.99) and recipe.trainer.steps == 5
    assert [p.kind for p in recipe.parts()][:3] == ["first_stage", "stage_objective", "conditioner"]


def test_plain_values_resolve_to_an_equal_recipe(catalog: Catalog) -> None:
    for given in ({}, FULL, load_plain("laptop")):
        recipe = resolve(given, catalog)
        again = resolve(parse_yaml(dump_yaml(recipe.plain()), "recipe.yaml"), catalog)
        assert again.plain() == recipe.plain()
        assert again.identity() == recipe.identity()
        assert attrs.evolve(again, first_stage=recipe.first_stage, **_as_asked(recipe, again)) == recipe


def _as_asked(recipe: Recipe, again: Recipe) -> dict[str, Any]:
    """The only field that plain values do not carry is the name by which a part was asked for: it is put back."""

    def put_back(before: Any, after: Any) -> Any:
        return attrs.evolve(after, asked=before.asked)

    out: dict[str, Any] = {k: put_back(getattr(recipe, k), getattr(again, k)) for k in SINGLE if k != "first_stage"}
    out["conditioners"] = tuple(put_back(a, b) for a, b in zip(recipe.conditioners, again.conditioners, strict=True))
    return out


@pytest.mark.parametrize(
    "override",
    [
        "sample.steps=3",
        "sample.images=2",
        "sampler.eta=1.0",
        "guidance.scale=9.0",
        "time_grid=leading",
        "trainer.log_every=7",
        "trainer.checkpoint_every=7",
        "data.workers=2",
    ],
)
def test_sampling_and_intervals_do_not_make_another_model(override: str, catalog: Catalog) -> None:
    recipe, other = resolve(FULL, catalog), resolve(changed(FULL, override), catalog)
    assert recipe.plain() != other.plain()
    assert recipe.identity() == other.identity() and recipe.name == other.name
    assert recipe.first_stage_identity() == other.first_stage_identity()


def test_settings_that_came_later_leave_older_runs_what_they_are(catalog: Catalog) -> None:
    """A recipe.yaml of before has no such key; at its default it does not count."""
    now = resolve(FULL, catalog).plain()["trainer"]
    before = {k: v for k, v in now.items() if k not in ("decay_end", "warmup_from")}
    assert len(before) == len(now) - 2
    assert without_same("trainer", before) == without_same("trainer", now)
    assert without_same("trainer", before) != without_same("trainer", {**now, "decay_end": 7})


@pytest.mark.parametrize(
    ("override", "stage_too"),
    [
        ("trainer.steps=6", False),
        ("conditioners.text.dropout=0.1", False),
        ("denoiser.channels=64", False),
        ("schedule=vp_cosine", False),
        ("parameterization=v", False),
        ("seed=8", True),
        ("image_size=64", True),
        ("first_stage.channels=64", True),
        ("first_stage_trainer.lr=0.5", True),
        ("dataset.scenes=11", True),
        ("data.flip=true", True),
    ],
)
def test_all_else_makes_another_model(override: str, stage_too: bool, catalog: Catalog) -> None:
    recipe, other = resolve(FULL, catalog), resolve(changed(FULL, override), catalog)
    assert recipe.identity() != other.identity() and recipe.name != other.name
    assert (recipe.first_stage_identity() != other.first_stage_identity()) is stage_too


@attrs.frozen(kw_only=True)
class _OfAPlugin:
    """A plugin's config with a field that is called as one of the trainers' that do not matter."""

    keep: int = 0


def test_a_plugins_fields_matter_whatever_they_are_called(catalog: Catalog) -> None:
    one, two = (
        attrs.evolve(r, denoiser=attrs.evolve(r.denoiser, config=_OfAPlugin(keep=n)))
        for n in (1, 2)
        for r in [resolve(FULL, catalog)]
    )
    assert one.identity() != two.identity()


def test_credentials_in_urls_are_no_part_of_what_is_written(catalog: Catalog) -> None:
    def recipe(url: str) -> Recipe:
        return resolve({**FULL, "dataset": {"use": "tar", "url": url}}, catalog)

    signed = recipe("https://ann:pa55@host/a.tar?X-Signature=5ec")
    assert signed.dataset.config.url == "https://ann:pa55@host/a.tar?X-Signature=5ec"
    assert signed.public()["dataset"]["url"] == "https://host/a.tar"
    assert signed.identity() == recipe("https://host/a.tar").identity()  # a signature is another each day
    assert signed.identity() != recipe("https://host/b.tar").identity()
    assert signed.first_stage_identity() == recipe("https://host/a.tar").first_stage_identity()


def test_a_run_folder_holds_no_credentials_and_takes_a_new_signature(catalog: Catalog, tmp_path: Path) -> None:
    for signature in ("5ec", "7ab"):
        url = f"https://host/a.tar?X-Signature={signature}"
        claim(resolve({**FULL, "dataset": {"use": "tar", "url": url}}, catalog), str(tmp_path))
        assert "X-Signature" not in (tmp_path / "recipe.yaml").read_text()


def test_a_folder_belongs_to_its_recipe_once_something_was_made(catalog: Catalog, tmp_path: Path) -> None:
    """A run that failed before it made anything, by a setting that did not work, is corrected in place."""
    for steps in (5, 6):
        claim(resolve(changed(FULL, f"trainer.steps={steps}"), catalog), str(tmp_path))
        assert f"\n  steps: {steps}\n" in (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "checkpoints").mkdir()
    claim(resolve(changed(FULL, "trainer.steps=6", "sample.steps=9"), catalog), str(tmp_path))
    with pytest.raises(ConfigError, match=r"trainer\.lr: .* there, 0\.5 now"):
        continuation(resolve(changed(FULL, "trainer.steps=6", "trainer.lr=0.5"), catalog), str(tmp_path))


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2, {"c": 3, "d": 4}]}) == digest({"b": [2, {"d": 4, "c": 3}], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_small_scales_the_parts_and_leaves_what_the_user_says(catalog: Catalog) -> None:
    paper, small = (resolve({**FULL, "scale": scale}, catalog) for scale in ("paper", "small"))
    wanted, _ = catalog.get("first_stage", "vq_f4")
    assert paper.first_stage.config.channels == 128
    for key, value in wanted.component.scaled_down(laptop_site()).items():
        assert getattr(small.first_stage.config, key) == value or list(getattr(small.first_stage.config, key)) == value
    assert small.conditioners[1].config.width == 1280, "what the recipe says comes before the scaling"
    text, _ = catalog.get("conditioner", "text")
    assert small.conditioners[0].config.width == text.component.scaled_down(laptop_site())["width"]
    own = resolve({**FULL, "scale": "small", "first_stage": {"use": "vq_f4", "channels": 48}}, catalog)
    assert own.first_stage.config.channels == 48
    assert "scale" not in small.plain(), "a resolved recipe is complete, and is not scaled again"


def test_conditioners_take_numbers_from_the_data(catalog: Catalog) -> None:
    info = DataInfo(keys={"class_label": "value"}, classes={"class_label": 9})
    assert resolve({"conditioners": ["class_label"]}, catalog, info).conditioners[0].config.classes == 9
    given = {"conditioners": [{"use": "class_label", "classes": 12}]}
    assert resolve(given, catalog, info).conditioners[0].config.classes == 12


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({"first_stag": "vq_f4"}, "first_stag: unknown key; did you mean 'first_stage'?"),
        ({"trainer": {"stepz": 3}}, "trainer.stepz: unknown key; did you mean 'steps'?"),
        (
            {"first_stage": {"use": "vq_f4", "chanels": 3}},
            "first_stage.chanels: unknown key; did you mean 'channels'?",
        ),
        (
            {"dataset": {"use": "shapes", "url": "photos"}},
            "dataset.url: unknown key (known: scenes, val_scenes, split, backgrounds, max_objects, shares, pairs, "
            "seed); dataset is 'shapes'",
        ),
        (
            {"first_stage": {"use": "vq_f4", "channel_mult": [1, 2, "x"]}},
            "first_stage.channel_mult[2]: expected an integer, got 'x'",
        ),
        ({"trainer": {"steps": 3.9}}, "trainer.steps: expected an integer, got 3.9"),
        ({"trainer": {"steps": 0}}, "trainer.steps: expected at least 1, got 0"),
        ({"trainer": {"lr": 0}}, "trainer.lr: expected more than 0, got 0"),
        ({"dataset": {"use": "shapes", "scenes": 0}}, "dataset.scenes: expected a whole number above 0, got 0"),
        ({"dataset": {"use": "shapes", "seed": -1}}, "dataset.seed: expected at least 0, got -1"),
        ({"dataset": {"use": "shapes", "max_objects": 5}}, "dataset.max_objects: must be in (1, 2, 3) (got 5)"),
        ({"schedule": {"use": "vp", "beta_start": 0.5}}, "schedule: beta_start 0.5 exceeds beta_end 0.0195"),
        ({"trainer": {"lr": "fast"}}, "trainer.lr: expected a number, got 'fast'"),
        ({"trainer": {"cache_latents": "false"}}, "trainer.cache_latents: expected true or false, got 'false'"),
        ({"trainer": {"precision": "bf61"}}, "did you mean 'bf16'?"),
        ({"image_size": "big"}, "image_size: "),
        ({"image_size": [64]}, "image_size"),
        ({"image_size": [0, 64]}, "image_size: expected [height, width] in pixels, got [0, 64]"),
        ({"image_channels": 4}, "image_channels: expected 1 (grey) or 3 (colour), got 4"),
        ({"scale": "tiny"}, "scale: expected paper or small, got 'tiny'"),
        ({"first_stage": "vq_f5"}, "first_stage: no first_stage named 'vq_f5'; did you mean 'vq_f"),
        ({"first_stage": "unet"}, "'unet' is a denoiser"),
        ({"first_stage": ["vq_f4"]}, "first_stage: expected a component's name or a mapping with 'use: NAME'"),
        ({"conditioners": [{"dropout": 0.1}]}, "conditioners[0]: 'use' is missing"),
        ({"conditioners": ["text", "txet"]}, "conditioners[1]: no conditioner named 'txet'; did you mean 'text'?"),
        ({"conditioners": [{"use": "text", "dropout": 1.5}]}, "conditioners[0].dropout: expected a share between 0"),
        ({"conditioners": [{"use": "text", "name": "my text"}]}, "conditioners[0].name: expected an identifier"),
        ({"conditioners": ["text", "text"]}, "two conditioners are named 'text'"),
        ({"conditioners": 3}, "conditioners: expected a list of components, got 3"),
    ],
)
def test_a_mistake_is_answered_with_its_path_and_the_fix(plain: Any, expected: str, catalog: Catalog) -> None:
    found = problems(plain, catalog)
    assert len(found) == 1 and expected in found[0], found
    assert all(line.count("\n") == 0 for line in found)


def test_all_mistakes_are_reported_at_once(catalog: Catalog) -> None:
    found = problems(
        {
            "trainr": {},
            "image_size": [0, 3],
            "trainer": {"stepz": 3, "lr": "fast"},
            "first_stage": "vq_f5",
            "conditioners": ["txet", {"use": "text", "dropout": 2.0, "name": "a b"}],
        },
        catalog,
    )
    for part in ("trainr:", "image_size:", "trainer.stepz:", "trainer.lr:", "vq_f5", "[0]:", "[1].dropout", "[1].name"):
        assert any(part in line for line in found), f"{part} is not among {found}"


def test_dotted_overrides_reach_every_depth() -> None:
    plain: dict[str, Any] = {"first_stage": "vq_f4", "conditioners": ["text", {"use": "class_label", "name": "kind"}]}
    apply_overrides(
        plain,
        [
            "first_stage.channels=32",
            "conditioners.text.dropout=0.2",
            "conditioners.kind.width=8",
            "trainer.betas=[0.8, 0.9]",
            "trainer.lr=1e-3",
            "sampler=ddim",
            "image_size=[32, 48]",
        ],
        SINGLE,
    )
    assert plain == {
        "first_stage": {"use": "vq_f4", "channels": 32},
        "conditioners": [{"use": "text", "dropout": 0.2}, {"use": "class_label", "name": "kind", "width": 8}],
        "trainer": {"betas": [0.8, 0.9], "lr": 0.001},
        "sampler": "ddim",
        "image_size": [32, 48],
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("image_size.height=3", "has no settings of its own"),
        ("trainer.betas=[1", "not readable as YAML"),
        ("conditioners.layout.width=3", "layout"),
    ],
)
def test_an_override_that_cannot_be_is_named(override: str, expected: str) -> None:
    plain: dict[str, Any] = {"image_size": 64, "conditioners": ["text"]}
    with pytest.raises(ConfigError) as caught:
        apply_overrides(plain, [override], SINGLE)
    assert expected in str(caught.value) and override.partition("=")[0] in str(caught.value)


def test_recipes_by_name_and_by_file(tmp_path: Path) -> None:
    assert "laptop" in shipped() and shipped()["laptop"]
    assert load_plain("laptop")["scale"] == "small"
    with pytest.raises(ConfigError, match="no recipe named 'lapptop'; did you mean 'laptop'"):
        load_plain("lapptop")
    file = tmp_path / "mine.yaml"
    file.write_text("image_size: 48\n")
    assert load_plain(str(file)) == {"image_size": 48}
    file.write_text("- 3\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: expected a mapping"):
        load_plain(str(file))


def test_trained_weights_are_told_from_names(tmp_path: Path, catalog: Catalog) -> None:
    assert [is_weights(n) for n in ("vq_f4", "runs/a", "s3://b/c", "stage.safetensors", "a\\b")] == [
        False, True, True, True, True,
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="no such file or folder"):
        resolve({"first_stage": str(tmp_path / "nothing")}, catalog)


def test_the_unet_scales_down_by_the_latents_it_stands_on(catalog: Catalog) -> None:
    def levels(**plain: Any) -> tuple[int, ...]:
        return resolve({"scale": "small", **plain}, catalog).denoiser.config.channel_mult

    assert levels(first_stage="vq_f4", image_size=32) == (1,)  # 8x8
    assert levels(first_stage="vq_f4", image_size=64) == (1, 2)  # 16x16
    assert levels(first_stage="identity", image_size=32) == (1, 2, 2)  # 32x32
    assert levels(first_stage="vq_f4", image_size=32, scale="paper") == (1, 2, 4)
