"""A picture that is given is not shrunk, cropped or padded without a word on it and on the size that keeps it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_known_pixels import CATALOG, PLAIN, picture

from ldm_core.builtin.ldm_format.codec import LdmCodec
from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.cli import main
from ldm_core.contracts.site import Site
from ldm_core.data.fit_notes import fit_note, input_notes, multiple_of
from ldm_core.data.inputs.fitted import fit_all
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import FittedWarning, Start
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.suites.codec import put, random_weights


@pytest.mark.parametrize(
    ("source", "target", "rule", "expected"),
    [
        ((512, 512), (256, 256), "crop", "shrunk to 256x256; image_size=512 keeps its size"),
        ((512, 768), (256, 256), "crop", "shrunk and cropped to 256x256; image_size=[512,768] keeps its size"),
        ((512, 768), (256, 256), "pad", "shrunk and padded to 256x256; image_size=[512,768] keeps its size"),
        ((200, 300), (256, 256), "crop", "enlarged and cropped to 256x256; image_size=[192,288] is the nearest that"),
        ((257, 256), (256, 256), "crop", "cropped to 256x256; image_size=256 is the nearest that keeps most"),
        ((1000, 333), (256, 256), "crop", "shrunk and cropped to 256x256; image_size=[992,320] is the nearest"),
        ((10, 500), (32, 64), "crop", "enlarged and cropped to 32x64; image_size=[32,480] is the nearest"),
        ((256, 256), (256, 256), "crop", ""),
        ((128, 128), (256, 256), "crop", ""),
    ],
)
def test_what_is_said(source: Any, target: Any, rule: str, expected: str) -> None:
    line = fit_note("image", source, target, rule, multiple=32)
    assert expected in line and bool(line) == bool(expected)
    assert not line or line.startswith(f"image of {source[0]}x{source[1]} (height x width): ")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((64, 64), ""),
        ((256, 256), "shrunk to 64x64; image_size=1024 takes it as the small picture"),
        ((128, 128), "shrunk to 64x64; image_size=512 takes it as the small picture"),
        ((32, 32), "enlarged to 64x64; image_size=128 takes it as the small picture"),
        ((48, 64), "cropped to 64x64; image_size=[192,256] takes it as the small picture"),
    ],
)
def test_pictures_that_are_to_be_made_large(source: Any, expected: str) -> None:
    line = fit_note("image", source, (256, 256), "crop", multiple=64, taken=(64, 64))
    assert expected in line and bool(line) == bool(expected)


def test_one_line_for_inputs_of_one_size() -> None:
    lines = input_notes({"image": (64, 64), "mask": (64, 64), "segmentation": (32, 64)}, (32, 32), "crop")
    assert [line.split(" of ")[0] for line in lines] == ["image and mask", "segmentation"]


def recipe_of(**changes: Any) -> Any:
    return resolve({**PLAIN, **changes}, CATALOG)


def test_by_the_recipe() -> None:
    unet = {"use": "unet", "channels": 32, "channel_mult": [1, 2, 2]}
    recipe = recipe_of(first_stage="vq_f4", denoiser=unet, image_size=64, conditioners=["low_resolution"])
    assert multiple_of(recipe) == 16
    fitted, notes = fit_all({"image": np.zeros((3, 64, 64), np.uint8)}, recipe)
    assert fitted["image"].shape == (3, 64, 64)
    assert notes == ["image of 64x64 (height x width): shrunk to 16x16; image_size=256 takes it as the small picture"]
    small = np.zeros((3, 16, 16), np.uint8)
    fitted, notes = fit_all({"image": small}, recipe)
    assert fitted["image"] is small and not notes


def test_a_picture_to_begin_from() -> None:
    recipe = recipe_of(conditioners=[])
    stage: Any = make_first_stage(recipe, CATALOG)
    model = Pipeline(recipe, stage, make_model(recipe, CATALOG, stage), CATALOG)
    large = np.zeros((3, 48, 48), np.uint8)
    with pytest.warns(FittedWarning, match=r"shrunk and cropped to 16x24; image_size=48 keeps its size"):
        model.sample(start=Start.image(large), images=1)
    with pytest.warns(FittedWarning, match="image 1 of 48x48"):
        model.sample(start=Start.image([picture(), large]), images=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(start=Start.image(picture()), images=1)


def test_the_advice_is_taken_by_a_run_of_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A line on stderr, and the setting that it names keeps the size; known pixels are then those of the file."""
    weights = random_weights(PLAIN, catalog=CATALOG)
    put(LdmCodec(LdmCodecConfig(), Site(size=(16, 24))).write(weights, "model").files, tmp_path, "model")
    run = next(path.parent for path in tmp_path.rglob("model.safetensors"))
    given = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "a.png")
    mask = np.zeros((40, 32), np.uint8)
    mask[5:20, 5:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    command = ["sample", str(run), "--input", f"image=@{tmp_path}/a.png", "--input", f"mask=@{tmp_path}/m.png"]
    command += ["--images", "1", "--quiet", "--out"]
    assert main([*command, str(tmp_path / "cut")]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "image and mask of 40x32 (height x width): shrunk and cropped to 16x24; image_size=[40,32] keeps" in said
    assert main([*command, str(tmp_path / "kept"), "image_size=[40,32]"]) == 0
    assert "cropped" not in capfd.readouterr().err
    made = np.asarray(Image.open(next((tmp_path / "kept").rglob("0000-*.png"))))
    assert (made[mask == 0] == given[mask == 0]).all()
