"""The tokenizer: small data, determinism, layout of the ids, and where a caption is cut."""

from __future__ import annotations

import pytest
from ldm_plugin_bert_text.tokenizer import CaptionTokenizer, train_tokenizer

from ldm_core.errors import ConfigError, DataError

CAPTIONS = ["a red circle on the left", "a blue star on the right", "a green square above a red star"] * 4


@pytest.mark.parametrize(
    "captions", [["a"], ["a red circle"], ["", "b"], ["one\nnew line\ttab"], ["日本語の文章です"], CAPTIONS]
)
@pytest.mark.parametrize("vocab_size", [64, 1024, 30522])
def test_small_data_work(captions: list[str], vocab_size: int) -> None:
    tokenizer = CaptionTokenizer(train_tokenizer(captions, vocab_size, lowercase=True), 24, lowercase=True)
    assert tokenizer.size <= vocab_size
    for caption in captions:
        ids, used, cut = tokenizer(caption)
        assert len(ids) == 24 and 1 not in ids and cut == ""
        assert ids[0] == 2 and ids[used - 1] == 3 and set(ids[used:]) <= {0}


def test_words_become_single_tokens_and_training_repeats() -> None:
    model = train_tokenizer(CAPTIONS, 1024, lowercase=True)
    assert model == train_tokenizer(CAPTIONS, 1024, lowercase=True)
    tokenizer = CaptionTokenizer(model, 16, lowercase=True)
    assert tokenizer("a red circle on the left").used == 8  # six words, start and end
    assert tokenizer("").ids == (2, 3) + 14 * (0,)
    assert tokenizer("A Red  CIRCLE").ids == tokenizer("a red circle").ids


def test_case_can_be_kept() -> None:
    tokenizer = CaptionTokenizer(train_tokenizer(["Red", "red"] * 9, 64, lowercase=False), 8, lowercase=False)
    assert tokenizer("Red").ids != tokenizer("red").ids


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a red circle on the left", ""),
        ("a red circle on the left a", "a"),
        ("a RED circle   on the left  Above a Red\nstar", "Above a Red\nstar"),
        ("a red circle on the left ☃☃ x", "☃☃ x"),  # characters that it never saw
    ],
)
def test_what_is_cut(text: str, cut: str) -> None:
    tokenizer = CaptionTokenizer(train_tokenizer(CAPTIONS, 1024, lowercase=True), 8, lowercase=True)
    tokens = tokenizer(text)
    assert tokens.cut == cut
    assert len(tokens.ids) == 8 and tokens.ids[-1] == 3


def test_what_is_cut_without_spaces() -> None:
    sentence = "".join(chr(0x4E00 + i) for i in range(60))
    tokenizer = CaptionTokenizer(train_tokenizer(list(sentence), 1024, lowercase=True), 23, lowercase=True)
    assert tokenizer(sentence).cut == sentence[21:]  # start, 21 characters, end


def test_models_without_special_pieces() -> None:
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_writer=out,
        model_type="bpe",
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
    )
    tokenizer = CaptionTokenizer(out.getvalue(), 12, lowercase=True)
    assert tokenizer("").ids == 12 * (0,)
    assert tokenizer("").used == 1  # something must be attended to


def test_errors() -> None:
    with pytest.raises(DataError, match="no caption holds a word"):
        train_tokenizer(["", "  \n"], 64, lowercase=True)
    with pytest.raises(ConfigError, match=r"vocab_size: 12 tokens cannot hold the captions' \d+ different characters"):
        train_tokenizer(CAPTIONS, 12, lowercase=True)
    with pytest.raises(ConfigError, match="not a sentencepiece model"):
        CaptionTokenizer(b"", 8, lowercase=True)
