"""Precomputed vectors to conditioning: shapes, masks, the null, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_embedding.conditioner import EmbeddingConditioner
from ldm_plugin_embedding.config import PRESETS, EmbeddingConfig
from torch import Tensor

from ldm_core.contracts import Cond, CondSpec, DataInfo, LatentSpec, Site
from ldm_core.errors import DataError

SITE = Site(size=(32, 32), latent=LatentSpec(4, (8, 8)))
DRAW = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)


def build(**fields: Any) -> EmbeddingConditioner:
    return EmbeddingConditioner(EmbeddingConfig(**{"width": 5, **fields}), SITE).eval()


def tokens(cond: Cond) -> Tensor:
    assert cond.crossattn is not None
    return cond.crossattn


def test_vectors_are_handed_on_as_they_are() -> None:
    text = build()
    assert torch.equal(tokens(text.encode({"embedding": torch.from_numpy(DRAW)})), torch.from_numpy(DRAW))
    assert torch.equal(tokens(text.encode({"embedding": list(DRAW)})), torch.from_numpy(DRAW))
    flat = torch.from_numpy(DRAW[:, 0])
    assert torch.equal(tokens(text.encode({"embedding": flat})), flat[:, None])
    assert torch.equal(tokens(text.encode({"embedding": [*flat]})), flat[:, None])
    one = build(to="vector").encode({"embedding": flat})
    assert one.crossattn is None and one.vector is not None and torch.equal(one.vector, flat)
    for kind in ("<f2", ">f4", "<f8"):  # as Python users hand them in
        strange = np.asfortranarray(DRAW[0]).astype(kind)
        strange.flags.writeable = False
        got = tokens(text.encode({"embedding": [strange, strange]}))
        assert got.dtype == torch.float32 and np.array_equal(got[1].numpy(), DRAW[0].astype(kind).astype(np.float32))
    assert tokens(text.encode({"embedding": []})).shape == (0, 1, 5)


def test_normalised_as_published() -> None:
    """CLIP's vectors of unit length; zeros, which stand for none, stay zeros."""
    config = PRESETS["embedding_rdm"]
    assert config.spec(LatentSpec(16)) == CondSpec(crossattn=768)
    rdm = EmbeddingConditioner(config, SITE).eval()
    value = torch.randn(2, 768, generator=torch.Generator().manual_seed(0)) * 7
    value[1] = 0
    got = tokens(rdm.encode({"embedding": value}))
    assert got.shape == (2, 1, 768)
    torch.testing.assert_close(got[0, 0], value[0] / value[0].square().sum().sqrt(), atol=1e-6, rtol=0)
    assert not got[1].any() and not tokens(rdm.null(Cond(crossattn=got))).any()
    assert list(rdm.parameters()) == [] and rdm.state_dict() == {}


def test_numbers_of_vectors_may_differ_under_a_mask() -> None:
    text = build(mask=True, null="learned")
    cond = text.encode({"embedding": [DRAW[0], DRAW[1, :1], DRAW[2, 0]]})
    assert cond.crossattn_mask is not None
    assert cond.crossattn_mask.tolist() == [[True] * 3, [True, False, False], [True, False, False]]
    assert torch.equal(tokens(cond)[2, 0], torch.from_numpy(DRAW[2, 0])) and not tokens(cond)[1, 1:].any()
    null = text.null(cond)
    assert text.null_vector is not None and null.crossattn_mask is not None
    assert null.crossattn_mask.tolist() == [[True, False, False]] * 3
    assert torch.equal(tokens(null), text.null_vector.expand(3, 3, 5))
    with pytest.raises(DataError, match=r"example 0 has 3 vectors and that of example 2 1; set mask=true"):
        build().encode({"embedding": [DRAW[0], DRAW[1], DRAW[2, 0]]})


def test_attention_to_the_null_does_not_depend_on_its_length() -> None:
    """Equal tokens attend as one, with a mask and without."""
    text = build(mask=True, null="learned")
    short, long = (text.encode({"embedding": [DRAW[0, :n]]}) for n in (1, 3))
    query = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(1))
    out = []
    for cond in (short, long):
        null = text.null(cond)
        assert null.crossattn_mask is not None
        k = tokens(null)
        for mask in (null.crossattn_mask[:, None], None):
            out.append(torch.nn.functional.scaled_dot_product_attention(query, k, k, attn_mask=mask))
    for other in out[1:]:
        torch.testing.assert_close(out[0], other)


def test_the_width_comes_from_the_data() -> None:
    info = DataInfo(keys={"embedding": "value"}, widths={"embedding": 12})
    assert EmbeddingConfig().from_data(info).width == 12
    assert EmbeddingConfig(width=5).from_data(info).width == 5
    assert "width is 0" in next(iter(EmbeddingConfig().from_data(DataInfo(keys={})).check(SITE)))
    assert "mask is for several" in next(iter(EmbeddingConfig(width=5, to="vector", mask=True).check(SITE)))
    assert list(EmbeddingConfig(width=5).check(SITE)) == []
    assert EmbeddingConfig(width=5, to="vector", key="v").spec(LatentSpec(4)) == CondSpec(vector=5)
    assert EmbeddingConfig(key="v").reads == ("v",)


@pytest.mark.parametrize(
    ("fields", "value", "message"),
    [
        ({}, [DRAW[0], DRAW[0, :, :4]], r"example 1 is 4 wide and the conditioner 5; .*embedding\.width=4"),
        ({}, torch.zeros(2, 3, 4), "example 0 is 4 wide"),
        ({}, "text", "one array an example"),
        ({}, ["text"], "example 0 is str; floats of shape"),
        ({}, [[1.0] * 5], "example 0 is list; floats"),
        ({}, torch.zeros(2, 5, dtype=torch.long), r"an array of torch.int64 and shape \(5,\)"),
        ({}, [np.array(["a"] * 5)], "floats of shape"),
        ({}, torch.zeros(2, 1, 1, 5), r"shape \(1, 1, 5\)"),
        ({}, [np.zeros((0, 5), np.float32)], "has 0 vectors; at least one"),
        ({"to": "vector"}, torch.zeros(2, 3, 5), "has 3 vectors; to=vector takes one"),
        ({}, [DRAW[0], DRAW[0] * np.float32("nan")], "example 1 holds numbers that are not finite"),
        ({}, torch.full((2, 5), float("inf")), "example 0 holds numbers that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(**fields).encode({"embedding": value})


def test_data_are_looked_at_before_training() -> None:
    build().fit({"embedding": row} for row in DRAW)
    with pytest.raises(DataError, match="example 2 is 4 wide"):
        build().fit({"embedding": row} for row in (DRAW[0], DRAW[1], DRAW[2, :, :4]))
    with pytest.raises(DataError, match="example 0 holds numbers that are not finite"):
        build().fit([{"embedding": np.array([1, 2, 3, 4, np.inf], np.float32)}])
    with pytest.raises(DataError, match=r"example 0 has no 'embedding'; it has: image"):
        build().fit([{"image": 0}])


def test_the_learned_null_is_trained_and_travels() -> None:
    text = build(null="learned").train()
    cond = text.encode({"embedding": torch.from_numpy(DRAW)})
    tokens(text.null(cond)).square().sum().backward()
    assert text.null_vector is not None and text.null_vector.grad is not None and text.null_vector.grad.abs().sum() > 0
    other = build(null="learned")
    other.load_state_dict(text.state_dict())
    assert other.null_vector is not None and torch.equal(other.null_vector, text.null_vector)
    assert set(text.state_dict()) == {"null_vector"}
