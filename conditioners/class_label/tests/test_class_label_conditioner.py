"""Labels to vectors: published sizes, the null, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_class_label.conditioner import ClassLabelConditioner
from ldm_plugin_class_label.config import PRESETS, ClassLabelConfig

from ldm_core.contracts import CondSpec, DataInfo, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError

SITE = Site(size=(32, 48), latent=LatentSpec(4, (8, 8)))
INFO = DataInfo(keys={"class_label": "value"}, classes={"class_label": 10})


@pytest.mark.parametrize(("preset", "rows"), [("class_imagenet", 1001), ("class_imagenet_f8", 1000)])
def test_published_sizes(preset: str, rows: int) -> None:
    label = ClassLabelConditioner(PRESETS[preset], SITE)
    assert {k: tuple(v.shape) for k, v in label.state_dict().items()} == {"embedding.weight": (rows, 512)}


def test_number_of_classes_comes_from_the_data() -> None:
    assert ClassLabelConfig().from_data(INFO) == ClassLabelConfig(classes=10)
    assert ClassLabelConfig(classes=12).from_data(INFO).classes == 12
    assert list(ClassLabelConfig(classes=10).check(SITE)) == []
    assert "does not tell how many 'class_label' has; set classes" in next(ClassLabelConfig().check(SITE))
    with pytest.raises(ConfigError, match="set classes, or give data that has 'class_label'"):
        ClassLabelConditioner(ClassLabelConfig().from_data(DataInfo(keys={})), SITE)
    assert ClassLabelConfig(width=7).spec(LatentSpec(4)) == CondSpec(crossattn=7)


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([3, 0, 9]), torch.tensor([3, 0, 9], dtype=torch.uint8), [3, np.int64(0), np.uint8(9)]],
)
def test_rows_of_the_table(labels: Any) -> None:
    label = ClassLabelConditioner(ClassLabelConfig(classes=10, width=6), SITE)
    cond = label.encode({"class_label": labels})
    null = label.null(cond)
    assert cond.crossattn is not None and null.crossattn is not None
    assert torch.equal(cond.crossattn, label.embedding.weight[[3, 0, 9]][:, None])
    assert torch.equal(null.crossattn, label.embedding.weight[[10, 10, 10]][:, None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = label.encode({"class_label": labels}).crossattn
    assert lower is not None and lower.dtype == torch.float32


def test_without_a_null_class_nothing_is_dropped() -> None:
    config = ClassLabelConfig(classes=4, width=6, null_class=False)
    label = ClassLabelConditioner(config, SITE)
    cond = label.encode({"class_label": [1, 2]})
    assert label.null(cond) is cond
    assert not config.droppable and ClassLabelConfig().droppable


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([1, 10]), r"'class_label' of example 1 is 10; allowed: 0 to 9 \(10 classes\)"),
        (torch.tensor([-1, 3]), r"of example 0 is -1; allowed"),
        (torch.tensor([1.0]), r"type torch.float32; one integer"),
        (torch.tensor([[1]]), r"has shape \(1, 1\)"),
        ([1, "cat"], r"of example 1 is 'cat', an integer in \[0, 9\] is needed"),
        ([True], "of example 0 is True"),
    ],
)
def test_wrong_labels_are_named(labels: Any, message: str) -> None:
    label = ClassLabelConditioner(ClassLabelConfig(classes=10, width=6), SITE)
    with pytest.raises(DataError, match=message):
        label.encode({"class_label": labels})
