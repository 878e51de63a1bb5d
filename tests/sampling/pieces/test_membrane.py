"""Fills without a seam: the membrane beside a direct solver and closed forms, and samples with known pixels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from test_known_pixels import folder, hole, model, picture  # noqa: F401

from ldm_core.data import known_pixels
from ldm_core.errors import ConfigError
from ldm_core.sampling.pieces.membrane import membrane, seamless
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.settings import with_settings

SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def directly(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Laplace's equation in the hole, by scipy's LU decomposition."""
    height, width = known.shape
    number = np.cumsum(~known).reshape(known.shape) - 1
    matrix = scipy.sparse.lil_matrix((int((~known).sum()),) * 2)
    right = np.zeros((matrix.shape[0], len(values)))
    for y, x in zip(*np.nonzero(~known), strict=True):
        for down, across in SIDES:
            row, column = y + down, x + across
            if 0 <= row < height and 0 <= column < width:
                matrix[number[y, x], number[y, x]] += 1
                if known[row, column]:
                    right[number[y, x]] += values[:, row, column]
                else:
                    matrix[number[y, x], number[row, column]] -= 1
    out = values.astype(np.float64)
    out[:, ~known] = scipy.sparse.linalg.splu(matrix.tocsc()).solve(right).T
    return out


def holes(kind: str, height: int = 40, width: int = 33) -> NDArray[np.bool_]:
    where = np.zeros((height, width), bool)
    if kind == "half":
        where[:, width // 2 :] = True
    elif kind == "strokes":
        where[height // 2 - 2 : height // 2 + 1] = where[:, width // 3 : width // 3 + 2] = True
    elif kind == "box":
        where[5:30, 8:25] = True
    else:
        where[:] = True
        where[20:23, 11:14] = False
    return where


@pytest.mark.parametrize("kind", ["half", "strokes", "box", "all but a spot"])
def test_beside_a_direct_solver(kind: str) -> None:
    where, random = holes(kind), np.random.default_rng(0)
    values = random.normal(0, 20, (3, *where.shape)).astype(np.float32)
    found, wanted = membrane(values, ~where), directly(values, ~where)
    assert (found[:, ~where] == values[:, ~where]).all()
    assert np.abs(found - wanted).max() < 0.5  # of 255 levels; errors have a deviation of 20
    assert found.max() <= values[:, ~where].max() + 0.5 and found.min() >= values[:, ~where].min() - 0.5


def test_a_slope_goes_on() -> None:
    """Values that rise evenly are harmonic: a hole inside is filled to what was there."""
    rows, columns = np.mgrid[:50, :60].astype(np.float32)
    slope = np.stack([2 * rows - columns, 0 * rows + 7, columns])
    where = np.zeros((50, 60), bool)
    where[10:40, 15:50] = True
    assert np.abs(membrane(np.where(where, np.float32(1e6), slope), ~where) - slope).max() < 0.2


def test_a_sample_that_is_off_by_a_constant_is_the_picture() -> None:
    given = np.random.default_rng(1).integers(60, 200, (3, 24, 32), dtype=np.uint8)
    sample, known = given - np.array([50, 20, 0], np.uint8)[:, None, None], np.ones((24, 32), bool)
    known[4:20, 8:] = False
    assert np.abs(seamless(given, sample, known).astype(int) - given).max() <= 1
    assert (seamless(given, sample, np.ones_like(known)) == given).all()
    assert (seamless(given, sample, np.zeros_like(known)) == sample).all()


def test_far_pixels_have_no_part() -> None:
    """Cut to the hole's surroundings, the fill is that of the whole picture."""
    given, sample = (np.random.default_rng(i).integers(0, 256, (3, 40, 50), dtype=np.uint8) for i in (0, 1))
    known = np.ones((40, 50), bool)
    known[12:25, 30:44] = False
    whole = seamless(given, sample, known)
    rows, columns = slice(11, 26), slice(29, 45)
    part = seamless(given[:, rows, columns], sample[:, rows, columns], known[rows, columns])
    assert (whole[:, rows, columns] == part).all()
    assert (whole[:, known] == given[:, known]).all()


def test_samples_have_no_seam(model: Pipeline) -> None:  # noqa: F811
    """The fill is the model's own, led up to the known pixels; metadata say so; the latents stay."""
    mask, where = hole("booleans")
    inputs = {"image": picture(), "mask": mask}
    plain, free = ["sample.seams=none"], ["sample.paste_known=false"]
    (joined,), (pasted,), (own,) = (
        each.sample(inputs=inputs, seed=4) for each in (model, *(model.with_settings(s) for s in (plain, free)))
    )
    assert (joined.image == seamless(picture(), own.image, ~where)).all()
    assert (joined.image != pasted.image).any() and (joined.image[:, ~where] == picture()[:, ~where]).all()
    assert joined.metadata["seams"] == "poisson" and "seams" not in pasted.metadata and "seams" not in own.metadata
    assert joined.latents is not None and pasted.latents is not None
    assert np.array_equal(joined.latents, pasted.latents)


def test_one_way_into_holes(model: Pipeline) -> None:  # noqa: F811
    faded = model.with_settings(["sample.feather=2"])
    (made,) = faded.sample(inputs={"image": picture(), "mask": hole("booleans")[0]}, seed=4)
    assert "seams" not in made.metadata
    with pytest.raises(ConfigError, match="known pixels fade already"):
        with_settings(model.recipe, ["sample.feather=2", "sample.seams=poisson"], model.catalog)


def test_older_recipes_join_nothing() -> None:
    """Of a recipe with `paste_known` and without `seams`, samples stay as they were, and no notice is given."""
    stored = {"sample": {"paste_known": True}}
    assert known_pixels.as_made(stored) == {"sample": {"paste_known": True, "seams": "none"}}
    assert known_pixels.as_made({"sample": {}})["sample"] == {"paste_known": False, "seams": "none"}
    newer = {"sample": {"paste_known": True, "seams": None}}
    assert known_pixels.as_made(newer) is newer
    assert known_pixels.notice(stored, []) == ""
