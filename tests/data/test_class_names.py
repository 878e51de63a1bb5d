"""Classes by name and by number: a name wins, an index counts where no class is called by a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ldm_core.cli.inputs import name_classes, read_inputs
from ldm_core.data.class_names import indices
from ldm_core.errors import ConfigError
from ldm_core.sampling.made_from import caption, described

GAPS = ("0", "1", "10", "11", "2")
PADDED = ("001", "002", "010")
PLAIN = ("cat", "dog", "horse")
MIXED = ("1", "cat", "dog")
FROM_ONE = ("1", "2", "3")


@pytest.mark.parametrize(
    "said, names, index",
    [
        ("2", GAPS, 4),
        (2, GAPS, 4),
        ("10", GAPS, 2),
        (10, GAPS, 2),
        ("11", GAPS, 3),
        ("0", GAPS, 0),
        ("1", FROM_ONE, 0),
        (3, FROM_ONE, 2),
        ("1", PADDED, 0),
        ("10", PADDED, 2),
        ("010", PADDED, 2),
        (2, PADDED, 1),
        ("dog", MIXED, 2),
        (1, MIXED, 0),
        ("1", PLAIN, 1),
        (2, PLAIN, 2),
        (" dog ", PLAIN, 1),
        ("horse", PLAIN, 2),
        ("7", (), 7),
        (np.int64(2), GAPS, 2),
        (np.int32(4), GAPS, 4),
    ],
)
def test_a_name_wins(said: Any, names: tuple[str, ...], index: int) -> None:
    """Of text and Python's integers; numpy's are indices, as data sets give them."""
    got = indices({"class_label": said}, {"class_label": names})["class_label"]
    assert got == index and isinstance(got, np.int64)
    assert indices({"class_label": got}, {"class_label": names})["class_label"] == index, "a second time it stays"


@pytest.mark.parametrize(
    "said, names, told",
    [
        ("3", GAPS, "no class named '3' (known: 0, 1, 10, 11, 2)"),
        (5, GAPS, "no class named '5'"),
        ("100", GAPS, "no class named '100'; did you mean '10'? (known"),
        (0, FROM_ONE, "no class named '0' (known: 1, 2, 3)"),
        ("3", MIXED, "no class named '3' (known: 1, cat, dog)"),
        ("11", ("0011", "011"), "no class named '11'"),
        ("Dog", PLAIN, "no class named 'Dog'; did you mean 'dog'?"),
        (7, PLAIN, "no class 7; there are 3 (0 to 2)"),
        (-1, PLAIN, "no class -1; there are 3 (0 to 2)"),
        ("-1", PLAIN, "no class named '-1'"),
        (np.int64(5), GAPS, "no class 5; there are 5 (0 to 4)"),
        ("9" * 5000, GAPS, "no class named '99999"),
    ],
)
def test_what_is_no_class_is_an_error_with_the_list(said: Any, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        indices({"class_label": said}, {"class_label": names})
    assert told in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "line, key, index",
    [
        ({"pairs": ["class_label=10"]}, "class_label", 2),
        ({"pairs": ["class_label='10'"]}, "class_label", 2),
        ({"boxes": '{"boxes": [[0, 0, 1, 1]], "labels": [10]}'}, "box_labels", [2]),
        ({"boxes": '{"boxes": [[0, 0, 1, 1], [0, 0, 1, 1]], "labels": ["2", 11]}'}, "box_labels", [4, 3]),
        ({"pairs": ["box_labels=[2, 1]"]}, "box_labels", [4, 1]),
    ],
)
def test_every_way_of_the_command_line(line: dict[str, Any], key: str, index: Any) -> None:
    names = {"class_label": GAPS, "box_labels": GAPS}
    got = name_classes(read_inputs(line.pop("pairs", ()), **line), names)[key]
    assert (got.tolist() if isinstance(index, list) else got) == index


def test_a_padded_number_is_a_name_before_it_is_a_number() -> None:
    names = {"class_label": ("07", "7")}
    assert name_classes(read_inputs(["class_label=07"]), names)["class_label"] == 0
    assert name_classes({"class_label": "7"}, names)["class_label"] == 1


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("class_label", np.int64(2), "10 (2)"),
        ("class_label", np.int64(9), "9"),
        ("box_labels", np.array([4, 3]), "2 (4), 11 (3)"),
        ("boxes", np.array([[0.25, 0.5, 0.125, 1 / 3]], np.float32), "[[0.25, 0.5, 0.125, 0.3333]]"),
        ("segmentation", np.array([[0, 2], [2, 2]]), "map of 2x2, classes sky (0), 2; sha256 "),
        ("image", np.zeros((3, 4, 5), np.uint8), "picture, 3x4x5; sha256 "),
        ("embedding", np.zeros(7, np.float32), "array of float32, 7; sha256 "),
        ("palette", [[1.0, 0.5]], "array of float64, 1x2; sha256 "),
        ("strength", 0.5, "0.5"),
        ("word", "a\x1b[31m\nb", "a\\x1b[31m\\nb"),
    ],
)
def test_metadata_says_what_a_picture_was_made_from(key: str, value: Any, text: str) -> None:
    names = {"class_label": GAPS, "box_labels": GAPS, "segmentation": ("sky", "tree")}
    assert described({key: value, "caption": "c", "unread": 1}, names, (key, "caption"))[key].startswith(text)


def test_metadata_is_bounded() -> None:
    row = {"boxes": np.zeros((5000, 4)), "box_labels": np.zeros(5000, np.int64), "word": "x" * 100_000}
    names = {"box_labels": ("y" * 9000,)}
    said = described(row, names, tuple(row))
    assert all(len(text) <= 4000 for text in said.values()) and "and 4900 more" in said["boxes"]
    assert len(caption(row, names)) <= 240


def test_a_key_that_the_metadata_has_already() -> None:
    assert described({"seed": 3}, {}, ("seed",)) == {"input_seed": "3"}
