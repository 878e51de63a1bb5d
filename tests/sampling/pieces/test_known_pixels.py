"""Inpainting leaves what is known as it is, bit for bit, unless it is told otherwise; older models as they were."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core.builtin.ldm_format.codec import LdmCodec
from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts.site import Site
from ldm_core.data import known_pixels
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.settings import with_settings
from ldm_core.testing.suites.codec import put, random_weights
from ldm_core.weights.open import Wanted

CATALOG = Catalog.discover()
PLAIN: dict[str, Any] = {
    "image_size": [16, 24],
    "first_stage": "identity",
    "conditioners": ["masked_image"],
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1], "res_blocks": 1, "heads": 2, "attention": [1],
                 "norm_groups": 8},
    "schedule": "vp_sd",
    "sampler": "ddim",
    "sample": {"steps": 2, "images": 2, "batch": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, as a run writes it."""
    weights = random_weights(PLAIN, catalog=CATALOG)
    place = tmp_path_factory.mktemp("model")
    put(LdmCodec(LdmCodecConfig(), Site(size=(16, 24))).write(weights, "model").files, place, "model")
    return next(path.parent for path in place.rglob("model.safetensors"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Pipeline:
    return Pipeline.load(str(folder), catalog=CATALOG)


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (channels, 16, 24), dtype=np.uint8)


def hole(kind: str) -> tuple[Any, np.ndarray]:
    """A mask in one of its forms, and where it is a hole."""
    where = np.zeros((16, 24), bool)
    where[3:9, 5:17] = True
    forms: dict[str, Any] = {
        "grey": where.astype(np.uint8) * 200 + 5,
        "black and white": where.astype(np.uint8) * 255,
        "classes": where.astype(np.int64),
        "shares": where.astype(np.float32) * 0.9,
        "booleans": where,
        "planes": where[None].astype(np.uint8) * 255,
        "tensor": torch.from_numpy(where),
    }
    return forms[kind], where


@pytest.mark.parametrize("kind", ["grey", "black and white", "classes", "shares", "booleans", "planes", "tensor"])
def test_known_pixels_are_bit_equal(kind: str, model: Pipeline) -> None:
    mask, where = hole(kind)
    given = picture()
    pasted = model.with_settings(["sample.seams=none"])
    made = pasted.sample(inputs={"image": given, "mask": mask}, images=2, seed=4)
    plain = model.with_settings(["sample.paste_known=false"])
    free = plain.sample(inputs={"image": given, "mask": mask}, images=2, seed=4)
    for one, other in zip(made, free, strict=True):
        assert (one.image[:, ~where] == given[:, ~where]).all()
        assert (one.image[:, where] == other.image[:, where]).all()
        assert (other.image[:, ~where] != given[:, ~where]).any()
        assert one.metadata["paste_known"] == "true" and "paste_known" not in other.metadata
        assert one.latents is not None and other.latents is not None and (one.latents == other.latents).all()


@pytest.mark.parametrize("shape", ["all known", "all hole", "one pixel"])
def test_extremes(shape: str, model: Pipeline) -> None:
    where = np.zeros((16, 24), bool)
    if shape == "all hole":
        where[:] = True
    elif shape == "one pixel":
        where[0, 23] = True
    given = picture(3)
    (made,) = model.sample(inputs={"image": given, "mask": where}, images=1)
    assert (made.image[:, ~where] == given[:, ~where]).all()
    assert ((made.image == given).all(0) == ~where).sum() >= where.size - 1 or shape == "all hole"


def test_each_image_has_its_own(model: Pipeline) -> None:
    rows = [{"image": picture(i), "mask": np.roll(hole("booleans")[1], i, axis=1)} for i in range(5)]
    for row, made in zip(rows, model.sample(inputs=rows, batch=2), strict=True):
        assert (made.image[:, ~row["mask"]] == row["image"][:, ~row["mask"]]).all()


def test_parts_of_the_core_that_know_nothing() -> None:
    pictures = np.zeros((1, 3, 4, 4), np.uint8)
    assert known_pixels.pasted({"other": object()}, [{}], pictures) is pictures
    assert known_pixels.described({"other": object()}) == {}

    class Grey:
        def known(self, example: Any) -> Any:
            return (np.ones((1, 4, 4), np.uint8), np.ones((4, 4), bool)) if example else None

    assert (known_pixels.pasted({"grey": Grey()}, [{"x": 1}], pictures) == pictures).all()  # of other channels
    assert (known_pixels.pasted({"grey": Grey()}, [{}], pictures[:, :1]) == 0).all()
    assert (known_pixels.pasted({"grey": Grey()}, [{"x": 1}], pictures[:, :1]) == 1).all()
    assert not pictures.any()


# ------------------------------------------------------------------------------------------------ older models


def without_setting(folder: Path, tmp_path: Path) -> Path:
    """The same model as it was written before there was the setting."""
    (tmp_path / "first_stage.safetensors").write_bytes((folder / "first_stage.safetensors").read_bytes())
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    body = json.loads(header["__metadata__"]["ldm_core"])
    for later in ("paste_known", "quantize_x0"):
        body["config"]["sample"].pop(later)
    header["__metadata__"]["ldm_core"] = json.dumps(body)
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return tmp_path


def test_older_models_give_the_pictures_that_they_gave(folder: Path, model: Pipeline, tmp_path: Path) -> None:
    older = without_setting(folder, tmp_path)
    with pytest.warns(UserWarning, match=r"made before sample\.paste_known.*paste_known=true pastes"):
        before = Pipeline.load(str(older), catalog=CATALOG)
    by_codec = Pipeline.load(str(older), catalog=CATALOG, wanted=Wanted.of(["image_size=[16,24]"]))
    given = {"image": picture(), "mask": hole("booleans")[1]}
    free = model.with_settings({"sample": {"paste_known": False}}).sample(inputs=given, seed=2, images=1)
    for pipeline in (before, by_codec):
        assert (pipeline.sample(inputs=given, seed=2, images=1)[0].image == free[0].image).all()
        assert pipeline.recipe.identity() == model.recipe.identity()
    told = before.with_settings(["sample.paste_known=true"]).sample(inputs=given, seed=2, images=1)
    assert (told[0].image == model.sample(inputs=given, seed=2, images=1)[0].image).all()


def test_the_setting_is_in_no_identity() -> None:
    recipe = resolve(PLAIN, CATALOG)
    assert recipe.sample.paste_known is True  # a recipe of today that does not say it
    assert with_settings(recipe, ["sample.paste_known=false"], CATALOG).identity() == recipe.identity()


def test_from_the_command_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given, where = picture(7), hole("booleans")[1]
    Image.fromarray(given.transpose(1, 2, 0)).save(tmp_path / "a.png")
    Image.fromarray(where.astype(np.uint8) * 255).save(tmp_path / "m.png")
    inputs = ["--input", f"image=@{tmp_path}/a.png", "--input", f"mask=@{tmp_path}/m.png"]
    assert main(["sample", str(folder), *inputs, "--images", "1", "--quiet", "--out", str(tmp_path / "out")]) == 0
    capfd.readouterr()
    made = Image.open(next((tmp_path / "out").rglob("0000-*.png")))
    assert made.info["paste_known"] == "true"
    assert (np.asarray(made)[~where] == given.transpose(1, 2, 0)[~where]).all()


# --------------------------------------------------------------------------------------- feathers, fills, erased parts


def test_the_pixels_around_a_hole_fade_into_it(model: Pipeline) -> None:
    """Beyond the feather known pixels are exact, in the hole samples are; between, the part grows pixel by pixel."""
    where = hole("booleans")[1]
    given = {"image": picture(), "mask": where}
    hard, free, soft = (
        model.with_settings([setting]).sample(inputs=given, images=1, seed=4)[0].image.astype(float)
        for setting in ("sample.seams=none", "sample.paste_known=false", "sample.feather=3")
    )
    assert (hard[:, ~where] == picture()[:, ~where]).all()
    assert (soft[:, where] == hard[:, where]).all()
    row = 5  # the hole has columns 5 to 16 here
    for column, part in ((4, 0.25), (3, 0.5), (2, 0.75), (1, 1.0), (0, 1.0), (17, 0.25), (19, 0.75), (20, 1.0)):
        want = part * picture()[:, row, column] + (1 - part) * free[:, row, column]
        assert np.abs(soft[:, row, column] - want).max() <= 0.5
    far = np.ones_like(where)
    far[0:12, 2:20] = False
    assert (soft[:, far] == picture()[:, far]).all()


def test_feathers_of_odd_masks() -> None:
    class All:
        def __init__(self, known: Any) -> None:
            self.mask = known

        def known(self, example: Any) -> Any:
            return np.full((1, 6, 6), 200, np.uint8), self.mask

    pictures = np.zeros((1, 1, 6, 6), np.uint8)
    point = np.ones((6, 6), bool)
    point[2, 2] = False
    made = known_pixels.pasted({"x": All(point)}, [{}], pictures, 4)[0, 0]
    assert made[2, 2] == 0 and made[2, 3] == made[1, 2] == 40 and made[3, 3] == made[2, 4] == 80 and made[2, 5] == 120
    for known, level in ((np.ones((6, 6), bool), 200), (np.zeros((6, 6), bool), 0)):  # nothing to fill, nothing known
        assert (known_pixels.pasted({"x": All(known)}, [{}], pictures, 4) == level).all()
    assert not pictures.any()


def test_each_image_is_another_fill(model: Pipeline) -> None:
    mask, where = hole("booleans")
    made = model.sample(inputs={"image": picture(), "mask": mask}, images=4, seed=1)
    assert len({one.image[:, where].tobytes() for one in made}) == 4
    assert all((one.image[:, ~where] == picture()[:, ~where]).all() for one in made)
    (third,) = model.sample(inputs={"image": picture(), "mask": mask}, images=1, seed=3)
    assert np.abs(third.image.astype(int) - made[2].image).max() <= 1
