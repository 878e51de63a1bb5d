"""Parts that do not fit: found from configs alone, without torch; the line names both parts and the fix."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import attrs
import pytest

from ldm_core.catalog import Catalog
from ldm_core.contracts import CondSpec, DataInfo
from ldm_core.errors import ConfigError
from ldm_core.recipe.check import check, misfits, remarks, require, site_of
from ldm_core.recipe.resolve import resolve

SMALL_UNET = {"use": "unet", "channels": 32, "channel_mult": [1, 2], "heads": 2, "attention": [2]}
ONE_LEVEL = {**SMALL_UNET, "channel_mult": [1], "attention": [1]}
FITS: dict[str, Any] = {
    "image_size": 64,
    "first_stage": "vq_f4",
    "denoiser": SMALL_UNET,
    "conditioners": [{"use": "class_label", "classes": 4, "width": 16, "dropout": 0.1}],
    "guidance": "cfg",
}
BOTH = [{"use": "class_label", "dropout": 0.1}, {"use": "text", "width": 512}]
KEYS = {"image": "image", "caption": "value", "class_label": "value"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def lines(catalog: Catalog, info: DataInfo | None = None, **changes: Any) -> list[str]:
    return list(misfits(resolve({**FITS, **changes}, catalog), info))


def test_the_arithmetic_of_a_stage_with_nothing_to_train_is_its_own(catalog: Catalog) -> None:
    for named, told in (("reconstruction", 1), ("", 0)):
        kept = {"precisions": ("fp32",), "stage_objective": named}
        recipe = resolve({**FITS, "first_stage_trainer": {"precision": "bf16"}}, catalog)
        config = attrs.make_class("Said", [], bases=(type(recipe.first_stage.config),), frozen=True, class_body=kept)()
        recipe = attrs.evolve(recipe, first_stage=attrs.evolve(recipe.first_stage, config=config))
        assert sum("first_stage_trainer.precision: bf16" in line for line in misfits(recipe)) == told


@pytest.mark.parametrize(
    "stage, said",
    [
        ({"use": "vq_f4", "attention": [4, 2]}, ""),
        ({"use": "vq_f4", "attention": [4, 8, 3]}, "8, 3 is without effect, as the levels have the factors 1, 2, 4"),
        ({"use": "kl_f8", "attention": [16]}, "16 is without effect, as the levels have the factors 1, 2, 4, 8"),
        (
            {"use": "vq_f4", "patch": 2, "attention": [2, 1]},
            "1 is without effect, as the levels have the factors 2, 4, 8",
        ),
    ],
)
def test_attention_at_a_factor_that_no_level_has_is_told(stage: dict[str, Any], said: str, catalog: Catalog) -> None:
    """And not refused: weights of others may name one."""
    recipe = resolve({**FITS, "first_stage": stage}, catalog)
    check(recipe, DataInfo(keys=KEYS, classes={"class_label": 4}))
    told = [line for line in remarks(recipe) if line.startswith("first_stage.attention")]
    assert told == ([f"first_stage.attention: {said}"] if said else [])
    given = attrs.evolve(recipe.first_stage, weights="stage", sha256="a" * 64)
    assert not [line for line in remarks(attrs.evolve(recipe, first_stage=given)) if "attention" in line]


def test_no_shipped_first_stage_has_such_a_factor(catalog: Catalog) -> None:
    presets = [resolve({**FITS, "first_stage": name}, catalog) for name in catalog.names("first_stage")]
    assert len(presets) > 10
    assert not [line for recipe in presets for line in remarks(recipe) if "attention" in line]


def test_what_fits_passes_and_has_a_site(catalog: Catalog) -> None:
    recipe = resolve(FITS, catalog)
    info = DataInfo(keys=KEYS, classes={"class_label": 4})
    check(recipe, info)
    site = require(recipe, info)
    assert site == site_of(recipe)
    assert site.size == (64, 64) and site.cond == CondSpec(crossattn=16)
    assert site.latent is not None and site.latent.shape(site.size) == (3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (  # image size against the first stage's stride
            {"image_size": 66},
            ["image size 66 is not divisible by the first stage's factor 4", "such as 64", "'vq_f4'"],
        ),
        (  # image channels against the first stage's
            {"image_channels": 1, "first_stage": "identity"},
            ["first_stage: the identity first stage has 3 channels and the images have 1", "first_stage.channels=1"],
        ),
        (  # the latents' size against the denoiser's depth
            {"image_size": 72, "denoiser": {**SMALL_UNET, "channel_mult": [1, 1, 2], "attention": [4]}},
            ["denoiser 'unet'", "latent size 18 is not divisible by 4", "use 2 levels in channel_mult"],
        ),
        (  # widths inside the denoiser
            {"denoiser": {**SMALL_UNET, "channels": 40}},
            ["denoiser 'unet'", "width 40 is not divisible by norm_groups 32"],
        ),
        (  # widths of two conditioners that share a slot
            {"conditioners": [*FITS["conditioners"], {"use": "text", "width": 24}]},
            ["'class_label' has cross-attention width 16 and 'text' 24", "conditioners.text.width=16"],
        ),
        (  # a slot that the denoiser does not use
            {
                "denoiser": {"use": "tiny_dit", "width": 16},
                "conditioners": [{"use": "semantic_map", "classes": 3, "dropout": 0.1}],
            },
            ["conditioner 'semantic_map' writes 'concat'", "denoiser 'tiny_dit' does not use it"],
        ),
        (  # an extra that no part takes
            {"conditioners": [{"use": "two_set", "dropout": 0.1}]},
            [
                "'two_set' writes the extra 'second_tokens'",
                "no denoiser, guidance, adapter or objective",
                "drop 'two_set'",
            ],
        ),
        (  # guidance that needs a null, without any conditioner
            {"conditioners": []},
            ["guidance 'cfg'", "has no conditioner", "`conditioners=NAME`", "guidance=none"],
        ),
        (  # guidance that needs a null that was never trained
            {"conditioners": [{"use": "class_label", "classes": 4}]},
            ["guidance 'cfg' needs an estimate without conditions", "conditioners.class_label.dropout=0.1"],
        ),
        (  # guidance that needs a null, and a conditioner that has none
            {"conditioners": [{"use": "class_label", "classes": 4, "null_class": False, "dropout": 0.1}]},
            ["guidance 'cfg'", "conditioner 'class_label' has no null", "guidance=none"],
        ),
        (  # a discriminator that is larger than the images
            {"image_size": 16},
            ["discriminator_layers: 3 strided layers", "at least 24", "[16, 16]", "fewer layers"],
        ),
        (  # LPIPS on images that are too small for it
            {
                "image_size": 12,
                "first_stage_trainer": {"adversarial": False, "lpips": "w"},
                "denoiser": ONE_LEVEL,
                "dataset": {"use": "folder", "url": "x"},
            },
            ["stage_objective.lpips", "at least 16", "[12, 12]"],
        ),
        (  # eps where alpha is 0
            {"schedule": "rectified_flow"},
            ["parameterization 'eps' divides by alpha", "schedule 'rectified_flow'", "parameterization=v"],
        ),
        (  # a grid that cannot make that number of steps
            {"time_grid": "legacy", "sample": {"steps": 60}},
            ["time_grid 'legacy' with schedule 'vp'", "cannot make 60 steps", "the nearest it can is"],
        ),
        (  # a grid that needs a table
            {"time_grid": "legacy", "schedule": "rectified_flow", "parameterization": "v"},
            ["time_grid 'legacy' with schedule 'rectified_flow'", "needs a table"],
        ),
        (  # more steps than the table has
            {"schedule": {"use": "vp", "steps": 20}, "sample": {"steps": 50}},
            ["time_grid 'trailing' with schedule 'vp'", "50 steps", "table has 20"],
        ),
        (  # micro-batches
            {"trainer": {"images_per_step": 9, "accumulate": 2}},
            ["trainer.images_per_step: 9 is not divisible by trainer.accumulate 2"],
        ),
        ({"conditioners": ["class_label"], "guidance": "none"}, ["conditioner 'class_label'", "set classes"]),
        (  # a sampler of distilled models
            {"sampler": "lcm"},
            ["sampler 'lcm' requires 'consistency'", "`ldm-run distil RUN`", "sampler.any_model=true"],
        ),
        ({"sampler": "repaint"}, ["sampler 'repaint' requires 'known_pixels'", "guides=[blend]", "--mask"]),
        ({"image_size": 8, "first_stage": "identity"}, ["dataset", "too small for a readable shape", "16"]),
    ],
)
def test_a_misfit_is_one_line_with_both_parts_and_the_fix(
    changes: dict[str, Any], expected: list[str], catalog: Catalog
) -> None:
    found = lines(catalog, **changes)
    assert len(found) == 1, found
    assert all(part in found[0] for part in expected), found[0]
    assert "\n" not in found[0]


def test_joint_dropout_is_enough_for_guidance(catalog: Catalog) -> None:
    assert lines(catalog, conditioners=[{"use": "class_label", "classes": 4}], trainer={"joint_dropout": 0.1}) == []


def test_keys_that_the_data_lacks_are_named_with_who_wants_them(catalog: Catalog) -> None:
    info = DataInfo(keys={"image": "image", "name": "value"})
    found = lines(catalog, info, dataset={"use": "tar", "url": "somewhere"})
    assert len(found) == 1
    assert "conditioner 'class_label' reads 'class_label', which dataset 'tar' does not offer" in found[0]
    assert "it offers: image, name" in found[0] and "dataset.read=" in found[0]
    assert "has no images" in lines(catalog, DataInfo(keys={"class_label": "value"}))[0]


def test_class_counts_are_compared_with_the_data(catalog: Catalog) -> None:
    found = lines(catalog, DataInfo(keys=KEYS, classes={"class_label": 9}))
    assert found == [
        "conditioner 'class_label' has classes: 4 and the data's 'class_label' has 9; "
        "set conditioners.class_label.classes=9"
    ]


def test_all_misfits_are_raised_at_once(catalog: Catalog) -> None:
    recipe = resolve(
        {**FITS, "image_size": 66, "conditioners": [], "trainer": {"images_per_step": 3, "accumulate": 2}}, catalog
    )
    with pytest.raises(ConfigError) as caught:
        check(recipe)
    assert len(caught.value.problems) == 3


_PROBE = """
import json, sys
from ldm_core.catalog import Catalog
from ldm_core.recipe.check import misfits
from ldm_core.recipe.resolve import resolve
from ldm_core.training.workflow import prepare
catalog = Catalog.discover()
recipe, info = prepare(json.loads(sys.argv[1]), catalog)
wrong = list(misfits(resolve(json.loads(sys.argv[2]), catalog), info))
heavy = [m for m in ("torch", "deepspeed", "timm", "s3fs", "sentencepiece") if m in sys.modules]
print(json.dumps({"wrong": wrong, "heavy": heavy}))
"""


def test_checking_imports_no_torch(catalog: Catalog) -> None:
    """Not a weight can have been allocated: torch was never there, although the data was looked into."""
    wrong = {**FITS, "image_size": 66, "schedule": "rectified_flow"}
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            _PROBE,
            json.dumps({**FITS, "conditioners": BOTH}),
            json.dumps(wrong),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout)
    assert answer["heavy"] == []
    assert len(answer["wrong"]) == 3  # the size, eps on flow, and 4 classes where shapes has 32
