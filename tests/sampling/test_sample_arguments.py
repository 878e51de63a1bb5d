"""Arguments of a sampling: what cannot be is an error that names the argument, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_finite_samples import assembled

from ldm_core.errors import ConfigError, LDMError
from ldm_core.sampling.arguments import require_arguments

NAN, INF = float("nan"), float("inf")
LONE = "caf\udce9"

WRONG: dict[str, list[Any]] = {
    "steps": ["4", 0, -3, True, 2.0, 4.5, NAN, [4], b"4"],
    "images": ["2", 0, False, 1.5, INF, 10**12, None.__class__],
    "batch": [0, "8", True, 2.5, {"batch": 2}],
    "seed": [1.5, "7", True, NAN, [7], b"7", 1j],
    "seeds": ["123", 5, [1, 2.5], [True], [None], {1: 2}, [[1]], np.zeros((2, 2)), ["1"]],
    "strength": [NAN, INF, "0.5", True, [0.5], 1j],
    "stop": [NAN, -INF, "0.2", False, {0.1}],
    "guidance": [NAN, INF, -INF, True, [3.0], {"scale": 3}, b"cfg", LONE],
    "sampler": [3, True, ["ddim"], {"use": "ddim"}, LONE],
    "time_grid": [1.5, b"leading", ["leading"], LONE],
    "prompts": [5, b"a cup", [1], ["a", None], {"caption": "a"}, LONE, ["a", LONE], [["a"]], object()],
    "negative": [5, b"a", [None], LONE, ["a", 3], {"caption": LONE}, {"caption": 4}, {3: "a"}],
    "inputs": [
        [1],
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
    "examples": [[3], "ab", {"caption": "a"}, [{"caption": 3}], [{}, {"x": NAN}], [None], 7],
    "strict": ["no", 1, 0.0, []],
    "project_x0": ["yes", 1, None.__class__],
    "callback": [3, "print", []],
}
RIGHT: dict[str, list[Any]] = {
    "steps": [1, 50, np.int64(4), None],
    "images": [1, np.int32(3)],
    "seed": [0, -1, 2**70, np.uint64(2**63)],
    "seeds": [[1, 2], (3,), range(4), np.array([1, 2]), []],
    "strength": [0.5, 1, np.float32(0.25)],
    "guidance": [3, 0.0, -1.5, "cfg", np.float64(2)],
    "prompts": ["", "a cup", ["a", "b"], ("猫", "e\u0301"), [], np.array(["a", "b"])],
    "negative": ["", {"caption": ""}, ["a"]],
    "inputs": [{}, {"class_label": 1}, {"boxes": [[0.0, 0.1, 0.2, 0.3]]}, {"image": np.zeros((3, 4, 4), np.uint8)}],
    "examples": [[], [{"caption": "a"}], ({"class_label": 0},)],
    "callback": [print, lambda p: None],
}


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
            {"steps": "4", "seed": 1.5, "prompts": 3, "inputs": {"embedding": [NAN] * 10_000}, "strict": 1}
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
        ({"inputs": None, "examples": [{"class_label": 1, "colour": 2}]}, "reads 'colour'"),
        ({"negative": {"colour": 1}}, "negative: no conditioner of this model reads 'colour'"),
        ({"strength": 1.5, "image": np.zeros((3, 8, 8), np.uint8)}, "strength=1.5: expected a share"),
        ({"stop": 1.0}, "stop=1: expected a share"),
        ({"latents": torch.full((3, 16, 16), NAN), "strength": 0.5}, "latents: those of image 0 hold values that are"),
        ({"latents": np.stack([np.zeros((3, 16, 16)), np.full((3, 16, 16), INF)]), "strength": 0.5}, "of image 1 hold"),
        ({"latents": [torch.zeros(3, 16, 16), torch.zeros(2)], "strength": 0.5}, "latents: expected floating values"),
        ({"latents": "x", "strength": 0.5}, "latents: expected floating values of shape (3, 16, 16) for each image"),
        ({"latents": torch.zeros(3, 16, 16, dtype=torch.int64), "strength": 0.5}, "got torch.int64 (1, 3, 16, 16)"),
        ({"latents": torch.zeros(4, 16, 16), "strength": 0.5}, "latents: expected floating values"),
        ({"latents": {}, "strength": 0.5}, "latents: an empty"),
        ({"image": np.zeros((16, 16, 3), np.uint8)}, "image: expected a PIL image or uint8"),
        ({"image": np.zeros((3, 16, 16), np.float32)}, "got float32 (3, 16, 16)"),
        ({"image": np.uint8(3)}, "image: expected a PIL image"),
        ({"image": [None]}, "image: expected a PIL image"),
        ({"image": [[1, 2], [3]]}, "image 0: expected a PIL image"),
        ({"image": []}, "image: an empty list"),
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
        PIPELINE.sample(inputs={"class_label": 1}, image=Image.open(tmp_path / "cut.png"))


def test_numbers_of_numpy_are_numbers() -> None:
    one = PIPELINE.sample(inputs={"class_label": np.int64(1)}, images=np.int64(1), steps=np.int32(2), seed=np.int64(4))  # type: ignore[arg-type]
    two = PIPELINE.sample(inputs={"class_label": 1}, images=1, steps=2, seed=4)
    assert np.array_equal(one[0].image, two[0].image)


PIPELINE = assembled()
