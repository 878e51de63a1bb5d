"""Captions to vectors: the null, what is cut, masks, precision, errors, and the state."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ldm_plugin_bert_text.conditioner import TextConditioner
from ldm_plugin_bert_text.config import PRESETS, TextConfig
from ldm_plugin_bert_text.tokenizer import CaptionTokenizer, TruncationWarning, train_tokenizer

from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError, StorageError

SITE = Site(size=(32, 48), latent=LatentSpec(4, (8, 8)))
SMALL = TextConfig(vocab_size=200, width=24, layers=2, heads=2, head_width=8, length=10)
CAPTIONS = [
    f"a {size} {colour} {shape}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for shape in ("circle", "square", "star")
]


def build(config: TextConfig = SMALL, *, fit: bool = True, seed: int = 0) -> TextConditioner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = TextConditioner(config, SITE).eval()
    if fit:
        text.fit({"caption": c} for c in CAPTIONS)
    return text


@pytest.mark.parametrize(("preset", "count"), [("text", 581_994_042), ("text_small", 186_154_682)])
def test_published_sizes(preset: str, count: int) -> None:
    with torch.device("meta"):
        text = TextConditioner(PRESETS[preset], SITE)
    parameters = dict(text.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == count
    assert len(parameters) == 422
    assert set(text.state_dict()) - set(parameters) == {"_extra_state"}
    width = PRESETS[preset].width
    shapes = {
        "transformer.token_emb.weight": (30522, width),
        "transformer.pos_emb.emb.weight": (77, width),
        "transformer.attn_layers.layers.0.0.weight": (width,),
        "transformer.attn_layers.layers.62.1.to_q.weight": (512, width),
        "transformer.attn_layers.layers.62.1.to_out.bias": (width,),
        "transformer.attn_layers.layers.63.1.net.0.0.weight": (4 * width, width),
        "transformer.attn_layers.layers.63.1.net.2.weight": (width, 4 * width),
        "transformer.norm.bias": (width,),
        "transformer.to_logits.bias": (30522,),
    }
    assert {k: tuple(parameters[k].shape) for k in shapes} == shapes


def test_spec_is_known_without_building() -> None:
    assert TextConfig().spec(LatentSpec(4)) == CondSpec(crossattn=1280)
    assert TextConfig(key="title").reads == ("title",)
    assert list(SMALL.check(SITE)) == []
    assert "vocab_size" in next(iter(TextConfig(vocab_size=20).check(SITE)))
    assert "tokenizer: no file words.model" in next(iter(TextConfig(tokenizer="words.model").check(SITE)))


def test_null_is_the_empty_caption_and_rows_are_independent() -> None:
    text = build()
    with torch.no_grad():
        cond = text.encode({"caption": [CAPTIONS[0], "", CAPTIONS[7]]})
        alone = text.encode({"caption": [CAPTIONS[7]]})
        null = text.null(cond)
    assert cond.crossattn is not None and alone.crossattn is not None and null.crossattn is not None
    assert cond.crossattn.shape == null.crossattn.shape == (3, 10, 24)
    torch.testing.assert_close(null.crossattn[2], cond.crossattn[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.crossattn[0], cond.crossattn[2], atol=1e-5, rtol=0)
    assert (cond.crossattn[0] - cond.crossattn[2]).abs().max() > 0.1


def test_repeated_captions_are_encoded_once() -> None:
    text = build(attrs.evolve(SMALL, mask=True))
    seen: list[int] = []
    text.transformer.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    some = [CAPTIONS[i] for i in (3, 0, 3, 5, 0)]
    with torch.no_grad():
        together = text.encode({"caption": some})
        each = [text.encode({"caption": [c]}) for c in some]
    assert seen[0] == 3
    assert together.crossattn is not None and together.crossattn_mask is not None
    assert together.crossattn_mask.shape == (5, 10)
    for i, alone in enumerate(each):
        assert alone.crossattn is not None
        torch.testing.assert_close(together.crossattn[i], alone.crossattn[0], atol=1e-5, rtol=0)


def test_mask_hides_the_padding() -> None:
    text = build(attrs.evolve(SMALL, mask=True))
    with torch.no_grad():
        before = text.encode({"caption": ["a red star", ""]})
        # What padding looks like must not matter to the positions that are attended to.
        text.transformer.token_emb.weight[text.tokenizer.pad] += torch.linspace(-1, 1, 24).square()
        after = text.encode({"caption": ["a red star", ""]})
        null = text.null(after)
    assert before.crossattn is not None and after.crossattn is not None
    assert before.crossattn_mask is not None and null.crossattn_mask is not None
    assert before.crossattn_mask.sum(1).tolist() == [5, 2]  # start, three words, end; start, end
    assert null.crossattn_mask.sum(1).tolist() == [2, 2]
    kept = before.crossattn_mask
    torch.testing.assert_close(before.crossattn[kept], after.crossattn[kept], atol=1e-6, rtol=0)
    assert (before.crossattn[~kept] - after.crossattn[~kept]).abs().max() > 1e-3


def test_null_follows_the_length_it_is_asked_for() -> None:
    text = build(attrs.evolve(SMALL, mask=True))
    with torch.no_grad():
        like = text.encode({"caption": CAPTIONS[:2]})
        assert like.crossattn is not None and like.crossattn_mask is not None
        longer = like._replace(
            crossattn=torch.nn.functional.pad(like.crossattn, (0, 0, 0, 3)),
            crossattn_mask=torch.nn.functional.pad(like.crossattn_mask, (0, 3)),
        )
        null = text.null(longer)
    assert null.crossattn is not None and null.crossattn_mask is not None
    assert null.crossattn.shape == (2, 13, 24)
    assert not null.crossattn_mask[:, 10:].any()


def test_a_long_caption_is_cut_and_said_so() -> None:
    text = build()
    long = "A small RED circle large green star small blue square large red star"
    kept, cut = "A small RED circle large green star small", "blue square large red star"
    assert text.truncated(long) == cut
    assert text.truncated(CAPTIONS[0]) == ""
    with torch.no_grad():
        with pytest.warns(TruncationWarning, match=cut):
            whole = text.encode({"caption": [long]})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            head = text.encode({"caption": [kept]})
    torch.testing.assert_close(whole.crossattn, head.crossattn)
    training = build().train()
    with pytest.warns(TruncationWarning):
        training.encode({"caption": [long, long + " star"]})
    with warnings.catch_warnings():  # training says it once
        warnings.simplefilter("error")
        training.encode({"caption": [long + " circle"]})


def test_same_type_under_autocast() -> None:
    text = build()
    with torch.no_grad():
        exact = text.encode({"caption": CAPTIONS[:3]}).crossattn
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cond = text.encode({"caption": CAPTIONS[:3]})
            null = text.null(cond)
    assert exact is not None and cond.crossattn is not None and null.crossattn is not None
    assert cond.crossattn.dtype == null.crossattn.dtype == torch.float32
    assert (cond.crossattn - exact).abs().max() < 0.1


def test_state_carries_the_tokenizer(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    text = build()
    state = text.state_dict()
    assert state["_extra_state"].dtype == torch.uint8
    save_file(state, tmp_path / "text.safetensors")
    other = build(seed=1, fit=False)
    other.load_state_dict(load_file(tmp_path / "text.safetensors"))
    batch: dict[str, Any] = {"caption": ["a large green square"]}
    with torch.no_grad():
        want = text.encode(batch).crossattn
        assert torch.equal(want, other.encode(batch).crossattn)  # type: ignore[arg-type]
        assert torch.equal(want, copy.deepcopy(text).encode(batch).crossattn)  # type: ignore[arg-type]
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    again = torch.load(stored, weights_only=True)
    assert bytes(again["_extra_state"].numpy()) == text.tokenizer.model


def test_a_named_tokenizer_is_read_and_stored(tmp_path: Path) -> None:
    model = train_tokenizer(CAPTIONS, 120, lowercase=True)
    (tmp_path / "words.model").write_bytes(model)
    config = attrs.evolve(SMALL, tokenizer=str(tmp_path / "words.model"))
    fitted, lazy = build(config), build(config, fit=False)
    assert fitted.tokenizer.model == model == lazy.tokenizer.model
    assert fitted.spare_ids == range(CaptionTokenizer(model, 10, lowercase=True).size, 200)
    with pytest.raises(ConfigError, match=r"pieces and vocab_size is 50; set vocab_size="):
        build(attrs.evolve(config, vocab_size=50))
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="not a sentencepiece model"):
        build(attrs.evolve(config, tokenizer=str(tmp_path / "bad.model")))
    with pytest.raises(StorageError, match=r"none\.model"):
        build(attrs.evolve(config, tokenizer=str(tmp_path / "none.model")))


def test_wrong_input_is_named() -> None:
    text = build()
    with pytest.raises(DataError, match=r"'caption' of example 1 is int"):
        text.encode({"caption": ["a star", 7]})
    with pytest.raises(DataError, match="a list of texts"):
        text.encode({"caption": "a star"})
    with pytest.raises(ConfigError, match="no tokenizer yet"):
        build(fit=False).encode({"caption": ["a star"]})
    with pytest.raises(DataError, match=r"example 0 has no 'caption'; it has: image"):
        build(fit=False).fit([{"image": 0}])


def test_trains_jointly() -> None:
    text = build().train()
    cond = text.encode({"caption": CAPTIONS[:4]})
    null = text.null(cond)
    assert cond.crossattn is not None and null.crossattn is not None
    ramp = torch.linspace(0, 1, cond.crossattn.numel()).view_as(cond.crossattn)
    (cond.crossattn * ramp + null.crossattn * ramp.flip(2)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in text.parameters())


def test_token_dropout_leaves_out_its_share_in_training_alone() -> None:
    """Of 3 tokens and a share of 0.4, each stays in 0.6 of the draws, but for those that would leave none: one of three
    then stays. Order, start, end and padding are kept; numbers are torch's own."""
    config = attrs.evolve(SMALL, token_dropout=0.4)
    text, whole = build(config), build(SMALL)
    batch = {"caption": ["red star circle"] * 2000}
    assert torch.equal(vectors(text.encode(batch)), vectors(whole.encode(batch)))
    full = text._tokens("red star circle")
    assert full.used == 5
    torch.manual_seed(0)
    drawn = [text._thinned(full) for _ in range(2000)]
    assert {len(row.ids) for row in drawn} == {SMALL.length}
    for row in drawn:
        inner = row.ids[1 : row.used - 1]
        places = [full.ids.index(one) for one in inner]
        assert places == sorted(places) and 1 <= len(inner) <= 3
        assert row.ids[0] == full.ids[0] and row.ids[row.used - 1] == full.ids[4]
        assert set(row.ids[row.used :]) <= {text.tokenizer.pad}
    kept = sum(row.used - 2 for row in drawn) / 2000
    assert abs(kept - (3 * 0.6 + 0.4**3)) < 0.06
    torch.manual_seed(0)
    assert [text._thinned(full) for _ in range(2000)] == drawn
    assert text._thinned(text._tokens("red")) == text._tokens("red") and text._thinned(text._tokens("")).used == 2
    text.train()
    assert len({tuple(row.flatten().tolist()) for row in vectors(text.encode(batch))}) == 7


def test_a_bag_of_words_takes_no_order() -> None:
    """Without layers and positions a caption's vectors are its words' own: order and neighbours change none of them."""
    bag = build(attrs.evolve(SMALL, layers=0, positions=False, mask=True))
    first, turned, other = vectors(bag.encode({"caption": ["red star circle", "circle red star", "blue star"]}))
    assert torch.equal(first[[3, 1, 2]], turned[1:4])
    assert torch.equal(first[2], other[2]) and not torch.equal(first[1], other[1])
    assert set(bag.state_dict()) == {
        *("transformer.token_emb.weight", "transformer.norm.weight", "transformer.norm.bias", "_extra_state")
    }
    null = vectors(bag.null(bag.encode({"caption": ["red star"]})))
    assert torch.equal(null, vectors(bag.encode({"caption": [""]})))
    assert list(bag.config.check(SITE)) == []
    assert list(attrs.evolve(SMALL, layers=-1).check(SITE)) == ["layers is -1; set 0 or more"]


def vectors(cond: Any) -> torch.Tensor:
    found: torch.Tensor = cond.crossattn.detach()
    return found
