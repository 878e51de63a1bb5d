"""--like compvis: what the original scripts do by default, and what a user sets on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.conventions import conventions
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from test_compvis_writing import KINDS, VQ, catalog, plain, weights_of

from ldm_core.builtin.diffusion.config import LegacyConfig
from ldm_core.builtin.diffusion.time_grids import LegacyGrid
from ldm_core.cli import main
from ldm_core.errors import ConfigError
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.conventions import in_words, like
from ldm_core.sampling.load import assemble
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import decoded
from ldm_core.sampling.settings import with_settings
from ldm_core.testing.suites.codec import put

SCRIPTS: dict[str, tuple[int, float, Any]] = {
    "unconditional": (50, 1.0, None),
    "churches": (50, 1.0, None),
    "classes": (20, 0.0, None),  # of a table without a row for no class
    "text": (200, 0.0, 5.0),
    "layout": (200, 1.0, None),
    "label maps": (200, 1.0, None),
    "small pictures": (100, 1.0, None),
    "masked pictures": (50, 0.0, None),
    "vectors": (50, 0.0, 5.0),
    "Stable Diffusion 1": (50, 0.0, 7.5),
    "Stable Diffusion 1, inpainting": (45, 1.0, 10.0),
    "Stable Diffusion 2": (50, 0.0, 9.0),
}


@pytest.mark.parametrize("kind", sorted(SCRIPTS))
def test_each_kind_is_sampled_as_by_its_script(kind: str) -> None:
    wanted = KINDS[kind]
    if any(c["use"] not in catalog().names("conditioner") for c in wanted["conditioners"]):
        pytest.skip("not installed")
    recipe = resolve({"dataset": "shapes", **wanted, "schedule": "vp_sd", "trainer": {"joint_dropout": 0.1}}, catalog())
    made = like(recipe, "compvis", catalog())
    steps, eta, scale = SCRIPTS[kind]
    assert (made.sampler.use, made.sampler.config.eta) == ("ddim", eta)
    assert made.sample.steps == steps and made.sample.levels == "cut"
    assert made.time_grid.use == "legacy" and made.time_grid.config.uneven
    assert getattr(made.guidance.config, "scale", None) == scale
    assert made.identity() == recipe.identity()


def test_classes_with_a_row_for_none_are_guided() -> None:
    row = {"use": "class_label", "name": "class_label", "null_class": True}
    assert conventions({"conditioners": [row], "schedule": {"use": "vp"}})["guidance"] == {"use": "cfg", "scale": 3.0}


def test_models_that_were_never_without_their_condition_are_not_guided() -> None:
    row = {"use": "text", "name": "text", "dropout": 0.0}
    recipe = {"conditioners": [row], "schedule": {"use": "vp"}}
    assert conventions(recipe)["guidance"] == {"use": "none"}
    assert conventions({**recipe, "trainer": {"joint_dropout": 0.1}})["guidance"]["scale"] == 5.0
    assert conventions({**recipe, "conditioners": [{**row, "dropout": 0.2}]})["guidance"]["scale"] == 5.0


def test_models_that_the_scripts_do_not_know() -> None:
    rows = [{"use": "class_label"}, {"use": "text"}]
    assert conventions({"conditioners": rows, "schedule": {"use": "vp"}}) == {}
    assert conventions({"conditioners": [], "schedule": {"use": "flow"}}) == {}
    flow = {"schedule": "rectified_flow", "parameterization": "flow"}
    recipe = resolve({"dataset": "shapes", **plain(VQ), **flow}, catalog())
    with pytest.raises(ConfigError, match="like=compvis: its scripts sample no model like this one"):
        like(recipe, "compvis", catalog())
    for name in ("diffusers", "ldm", "compviss", "\x1b[31m" + "x" * 300):
        with pytest.raises(ConfigError, match=r"no program of this name.*\(known: compvis\)") as raised:
            like(recipe, name, catalog())
        assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 250


# --------------------------------------------------------------------------------------------- steps that do not divide


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 11, 13, 30, 45, 60, 64, 99, 128, 150, 199, 200, 250, 499, 500])
def test_as_many_steps_as_the_original_makes(steps: int) -> None:
    """Its indices are range(0, T, T // steps), one higher each, down to the table's first entry."""
    indices = np.asarray(list(range(0, 1000, 1000 // steps))) + 1
    schedule: Any = catalog().get("schedule", "vp")[0].component.load()(resolve({}, catalog()).schedule.config, None)
    grid = LegacyGrid(LegacyConfig(uneven=True))
    if indices[-1] > 999:  # beyond the table: it ends with an IndexError there
        with pytest.raises(ValueError, match="cannot make"):
            grid.times(schedule, steps)
        return
    assert (grid.times(schedule, steps)[:-1] - 1).tolist() == indices[::-1].tolist()
    assert grid.times(schedule, steps)[-1] == 1
    exact = LegacyConfig().problem(1000, steps)
    assert (exact is None) == (len(indices) == steps)
    assert exact is None or exact.endswith(f"; time_grid.uneven=true makes {len(indices)}, as published")


@pytest.mark.parametrize("steps", [0, 3, 9, 300, 501, 999, 1000, 1001])
def test_step_counts_at_which_the_original_fails(steps: int) -> None:
    assert "cannot make" in str(LegacyConfig(uneven=True).problem(1000, steps))


# --------------------------------------------------------------------------------------------------------- levels


class Passes:
    """A first stage that decodes to what it is given."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


def test_levels_are_cut_as_by_numpy() -> None:
    values = torch.linspace(-1.2, 1.2, 3 * 32 * 32).view(1, 3, 32, 32)
    there = (255.0 * torch.clamp((values + 1.0) / 2.0, min=0.0, max=1.0).numpy()).astype(np.uint8)
    stage: Any = Passes()
    assert (decoded(stage.decode, values, levels="cut")[0].numpy() == there).all()
    rounded = decoded(stage.decode, values)[0].numpy().astype(int)
    assert set(np.unique(rounded - there)) == {0, 1}
    assert 0.3 < (rounded != there).mean() < 0.6


# ------------------------------------------------------------------------------------------------ Python, command line


def small(tmp_path: Path) -> Path:
    weights = weights_of("masked pictures")
    return put(CompVisCodec(CompVisConfig()).write(weights, "m.ckpt").files, tmp_path, "m.ckpt")


def test_in_python() -> None:
    model = Pipeline.of(assemble(weights_of("masked pictures"), catalog()))
    same = model.like("compvis")
    assert isinstance(same, Pipeline) and same.conventions == "compvis" and not model.conventions
    mask = np.zeros((16, 16), bool)
    mask[4:9] = True
    given = {"image": np.full((3, 16, 16), 77, np.uint8), "mask": mask}
    (made,) = same.sample(inputs=given, images=1, steps=6)
    assert made.metadata["like"] == "compvis" and made.metadata["levels"] == "cut"
    assert (made.metadata["steps"], made.metadata["steps_made"]) == ("6", "7")
    carried = json.loads(made.metadata["recipe"])
    assert carried["time_grid"] == {"use": "legacy", "uneven": True} and carried["sample"]["levels"] == "cut"
    (plainly,) = same.with_settings(["sample.levels=rounded"]).sample(inputs=given, images=1, steps=6)
    difference = plainly.image.astype(int) - made.image
    assert set(np.unique(difference)) <= {0, 1} and (made.image[:, ~mask] == 77).all()
    assert (plainly.latents == made.latents).all()  # type: ignore[union-attr]
    (other,) = model.sample(inputs=given, images=1)
    assert "like" not in other.metadata and "levels" not in other.metadata
    assert "seams" not in made.metadata and other.metadata["seams"] == "poisson", "the original pastes"


def test_settings_go_on_top() -> None:
    recipe = resolve({"dataset": "shapes", **plain(VQ), "schedule": "vp_sd"}, catalog())
    made = like(recipe, "compvis", catalog())
    assert (
        in_words(made, 30)
        == "sampler ddim (eta 1), 31 steps of the time grid legacy (asked for 30), guidance none, levels cut"
    )
    changed = with_settings(made, ["sampler.eta=0.5", "time_grid=trailing", "sample.levels=rounded"], catalog())
    assert (
        in_words(changed, 30)
        == "sampler ddim (eta 0.5), 30 steps of the time grid trailing, guidance none, levels rounded"
    )


def test_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = small(tmp_path)
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "a.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    command = ["sample", "--weights", str(path), "--input", f"image=@{tmp_path}/a.png"]
    command += ["--input", f"mask=@{tmp_path}/m.png", "--images", "1", "--steps", "7", "--out", str(tmp_path / "one")]
    assert main([*command, "--like", "compvis"]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "like compvis: sampler ddim (eta 0), 8 steps of the time grid legacy (asked for 7)" in said
    made = Image.open(next((tmp_path / "one").rglob("0000-*.png")))
    assert made.info["like"] == "compvis"
    assert (np.asarray(made)[4:] == (9, 99, 199)).all()
    assert main([*command[:-1], str(tmp_path / "two")]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "sampled with" in said and "--like compvis takes what its own scripts do" in said
    assert main([*command[:-1], str(tmp_path / "three"), "--like", "diffuser", "--quiet"]) == 2
    assert "known: compvis" in capfd.readouterr().err and not (tmp_path / "three").exists()
    assert main([*command[:-1], str(tmp_path / "four"), "--like", "compvis", "--steps", "3", "--quiet"]) == 2
    assert "cannot make 3 steps" in capfd.readouterr().err
