"""Layouts to vectors: published size, ragged and stacked batches, the null, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ldm_plugin_bbox.conditioner import LayoutConditioner
from ldm_plugin_bbox.config import PRESETS, LayoutConfig

from ldm_core.contracts import LatentSpec, Site
from ldm_core.errors import DataError

SITE = Site(size=(32, 48), latent=LatentSpec(4, (8, 8)))
SMALL = LayoutConfig(classes=9, objects=4, vocab_size=101, width=24, layers=2, heads=2, head_width=8)
BOXES = [
    torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.3, 0.6, 0.7]]),
    torch.zeros(0, 4),
    torch.tensor([[0.1, 0.1, 0.2, 0.2]]),
]
LABELS = [torch.tensor([1, 8]), torch.zeros(0, dtype=torch.int64), torch.tensor([3])]


def build(config: LayoutConfig = SMALL) -> LayoutConditioner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LayoutConditioner(config, SITE).eval()


def test_boxes_beyond_the_number_of_objects_are_told() -> None:
    conditioner = build()
    assert conditioner.omitted({"boxes": np.full((4, 4), 0.25)}) == ""
    assert conditioner.omitted({"boxes": np.full((6, 4), 0.25)}) == "the 2 smallest of 6 boxes (objects: 4)"


def test_published_size() -> None:
    with torch.device("meta"):
        layout = LayoutConditioner(PRESETS["bbox_layout"], SITE)
    assert sum(p.numel() for p in layout.parameters()) == 58_858_496
    assert len(list(layout.parameters())) == len(layout.state_dict()) == 214
    assert layout.transformer.pos_emb is not None
    assert layout.transformer.pos_emb.emb.weight.shape == (92, 512)


def test_rows_are_independent_and_the_null_has_no_objects() -> None:
    layout = build()
    with torch.no_grad():
        cond = layout.encode({"boxes": BOXES, "box_labels": LABELS})
        null = layout.null(cond)
        assert cond.crossattn is not None and null.crossattn is not None
        assert cond.crossattn.shape == null.crossattn.shape == (3, 12, 24)
        torch.testing.assert_close(null.crossattn[0], cond.crossattn[1], atol=1e-5, rtol=0)
        for i in range(3):
            alone = layout.encode({"boxes": [BOXES[i].numpy()], "box_labels": [LABELS[i].tolist()]}).crossattn
            assert alone is not None
            torch.testing.assert_close(alone[0], cond.crossattn[i], atol=1e-5, rtol=0)
        longer = cond._replace(crossattn=torch.zeros(2, 15, 24))
        assert layout.null(longer).crossattn.shape == (2, 15, 24)  # type: ignore[union-attr]


def test_stacked_batches_are_the_same() -> None:
    layout = build()
    boxes, labels = torch.stack([BOXES[0], BOXES[0].flip(0)]), torch.stack([LABELS[0], LABELS[0].flip(0)])
    with torch.no_grad():
        stacked = layout.encode({"boxes": boxes, "box_labels": labels}).crossattn
        listed = layout.encode({"boxes": list(boxes.numpy()), "box_labels": [np.array(k) for k in labels]}).crossattn
    assert stacked is not None and listed is not None
    assert torch.equal(stacked, listed)
    torch.testing.assert_close(stacked[0], stacked[1], atol=1e-6, rtol=0)  # the order of annotations does not matter


def test_bfloat16_keeps_the_type_and_gradients_reach_all() -> None:
    layout = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cond = layout.encode({"boxes": BOXES, "box_labels": LABELS})
        null = layout.null(cond)
    assert cond.crossattn is not None and null.crossattn is not None
    assert cond.crossattn.dtype == null.crossattn.dtype == torch.float32
    (cond.crossattn * torch.linspace(0, 1, 24 * 12).view(12, 24)).sum().backward()
    assert all(p.grad is not None for p in layout.parameters())


def test_wrong_batches_are_named() -> None:
    layout = build()
    with pytest.raises(DataError, match=r"'boxes' has 3 examples and 'box_labels' 2"):
        layout.encode({"boxes": BOXES, "box_labels": LABELS[:2]})
    with pytest.raises(DataError, match=r"'box_labels' of example 0 holds 9; allowed: 0 to 8 \(9 classes\)"):
        layout.encode({"boxes": BOXES[2:], "box_labels": [[9]]})
