"""Arguments of a sampling: what cannot be is an error that names the argument, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from assembled import assembled
from PIL import Image

from ldm_core.errors import ConfigError, LDMError
from ldm_core.sampling.arguments import require_arguments
from ldm_core.sampling.image_to_image import Start

NAN, INF = float("nan"), float("inf")
LONE = "caf\udce9"

WRONG: dict[str, list[Any]] = {
    "steps": ["4", 0, -3, True, 2.0, 4.5, NAN, [4], b"4"],
    "images": ["2", 0, False, 1.5, INF, 10**12, None.__class__],
    "batch": [0, "8", True, 2.5, {"batch": 2}],
    "seed": [1.5, "7", True, NAN, b"7", 1j, "123", [1, 2.5], [True], [None], {1: 2}, [[1]], np.zeros((2, 2)), ["1"]],
    "guidance": [NAN, INF, -INF, True, [3.0], {"scale": 3}, b"cfg", LONE],
    "prompts": [5, b"a cup", [1], ["a", None], {"caption": "a"}, LONE, ["a", LONE], [["a"]], object()],
    "negative": [5, b"a", [None], LONE, ["a", 3], {"caption": LONE}, {"caption": 4}, {3: "a"}],
    "inputs": [
        [1],
        3,
        [{"caption": 3}],
        [{}, {"x": NAN}],
        [None],
        "a",
        {1: 2},
        {"caption": LONE},
        {"caption": b"a"},
        {"embedding": np.array([NAN])},
        {"embedding": [1.0, INF]},
        {"embedding": torch.tensor([NAN])},
        {"x": NAN},
        {"x": np.float32(INF)},
        {"x": [[0.0], [NAN]]},
    ],
    "inputs ": [
        {"image": "x.png"},
        {"image": None},
        {"image": [[1, 2], [3]]},
        {"image": 3},
        {"segmentation": "a"},
        {"segmentation": np.array(["a"])},
        {"mask": "m.png"},
        {"mask": b"m"},
        {"boxes": 0.3},
        {"boxes": {"x": 1}},
        {"boxes": ["a"]},
        {"embedding": "[0, 1]"},
        {"embedding": np.array(0.5)},
        {"embedding": [None]},
    ],
    "callback": [3, "print", []],
    "start": [0.5, "image", np.zeros((3, 4, 4), np.uint8)],
}
RIGHT: dict[str, list[Any]] = {
    "steps": [1, 50, np.int64(4), None],
    "images": [1, np.int32(3)],
    "seed": [0, -1, 2**70, np.uint64(2**63), [1, 2], (3,), range(4), np.array([1, 2]), []],
    "start": [Start.noise(), Start.noise(stop=np.float64(0.25)), Start.image([0], strength=1)],
    "guidance": [3, 0.0, -1.5, "cfg", np.float64(2)],
    "prompts": ["", "a cup", ["a", "b"], ("猫", "e\u0301"), [], np.array(["a", "b"])],
    "negative": ["", {"caption": ""}, ["a"]],
    "inputs": [
        {},
        [],
        [{"caption": "a"}],
        ({"class_label": 0},),
        {"class_label": 1},
        {"boxes": [[0.0, 0.1, 0.2, 0.3]]},
        {"image": np.zeros((3, 4, 4), np.uint8)},
    ],
    "callback": [print, lambda p: None],
}


def latents(given: Any) -> Start:
    return Start.latents(given, strength=0.5)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_cannot_be_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as told:
        require_arguments({name.strip(): value})
    line = str(told.value)
    assert line.startswith(name.strip()) and len(line) < 300 and line.isprintable()


@pytest.mark.parametrize("name", RIGHT)
def test_what_can_be_passes(name: str) -> None:
    for value in RIGHT[name]:
        require_arguments({name: value})


def test_all_mistakes_are_told_at_once_and_briefly() -> None:
    with pytest.raises(ConfigError) as told:
        require_arguments(
            {"steps": "4", "seed": 1.5, "prompts": 3, "inputs": {"embedding": [NAN] * 10_000}, "callback": 1}
        )
    assert len(told.value.problems) == 5
    assert all(len(line) < 200 for line in told.value.problems)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 1.5}, "seed=1.5: expected a whole number"),
        ({"steps": "4"}, "steps='4': expected a whole number above 0"),
        ({"guidance": NAN}, "guidance=nan: expected a finite scale"),
        ({"inputs": {"class_label": 1, "colour": 2}}, "no conditioner of this model reads 'colour'"),
        ({"inputs": [{"class_label": 1, "colour": 2}]}, "reads 'colour'"),
        ({"inputs": {"clas_label": 1}}, "reads 'clas_label'; did you mean 'class_label'? (they read: class_label)"),
        ({"prompts": ["a circle"]}, "a prompt was given, and no conditioner of this model reads captions"),
        ({"negative": {"colour": 1}}, "negative: no conditioner of this model reads 'colour'"),
        ({"start": latents(torch.full((3, 16, 16), NAN))}, "latents: those of image 0 hold values that are"),
        ({"start": latents(np.stack([np.zeros((3, 16, 16)), np.full((3, 16, 16), INF)]))}, "of image 1 hold"),
        ({"start": latents([torch.zeros(3, 16, 16), torch.zeros(2)])}, "latents: expected floating values"),
        ({"start": latents("x")}, "latents: expected floating values of shape (3, 16, 16) for each image"),
        ({"start": latents(torch.zeros(3, 16, 16, dtype=torch.int64))}, "got torch.int64 (1, 3, 16, 16)"),
        ({"start": latents(torch.zeros(4, 16, 16))}, "latents: expected floating values"),
        ({"start": Start.image(np.zeros((16, 16, 3), np.uint8))}, "image: expected a PIL image or uint8"),
        ({"start": Start.image(np.zeros((3, 16, 16), np.float32))}, "got float32 (3, 16, 16)"),
        ({"start": Start.image(np.uint8(3))}, "image: expected a PIL image"),
        ({"start": Start.image([None])}, "image: expected a PIL image"),
        ({"start": Start.image([[1, 2], [3]])}, "image 0: expected a PIL image"),
    ],
)
def test_a_pipeline_refuses_them_with_the_arguments_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LDMError) as told:
        PIPELINE.sample(**{"inputs": {"class_label": 1}, "images": 1, **given})
    assert said in str(told.value)


def test_a_picture_that_pillow_cannot_read_to_its_end(tmp_path: Any) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:60])
    with pytest.raises(LDMError, match="image: its picture cannot be read"):
        PIPELINE.sample(inputs={"class_label": 1}, start=Start.image(Image.open(tmp_path / "cut.png")))


def test_numbers_of_numpy_are_numbers() -> None:
    one = PIPELINE.sample(inputs={"class_label": np.int64(1)}, images=np.int64(1), steps=np.int32(2), seed=np.int64(4))  # type: ignore[arg-type]
    two = PIPELINE.sample(inputs={"class_label": 1}, images=1, steps=2, seed=4)
    assert np.array_equal(one[0].image, two[0].image)


PIPELINE = assembled()
