"""Word pieces against Hugging Face's tokenizer of the published models, on text of every script and of none."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import attrs
import pytest
import torch
from ldm_plugin_bert_text import bert_words
from ldm_plugin_bert_text.conditioner import TextConditioner
from ldm_plugin_bert_text.config import PRESETS, TextConfig
from ldm_plugin_bert_text.tokenizer import CaptionTokenizer, TruncationWarning, train_tokenizer
from ldm_plugin_bert_text.wordpiece import WordPieceTokenizer, is_vocabulary

from ldm_core.contracts import LatentSpec, Site
from ldm_core.errors import ConfigError

BLOCKS = (
    *((0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x180), (0x180, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530)),
    *((0x530, 0x600), (0x600, 0x700), (0x700, 0x860), (0x860, 0x900), (0x900, 0xE00), (0xE00, 0x1000)),
    *((0x1000, 0x1100), (0x1100, 0x1200), (0x1200, 0x1400), (0x1680, 0x1900), (0x1A00, 0x1CF0), (0x1D80, 0x1F00)),
    *((0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2C00), (0x2C00, 0x2E60), (0x3000, 0x3130), (0x3400, 0x3410)),
    *((0x4E00, 0x4E40), (0x9FF0, 0xA000), (0xA480, 0xABF0), (0xAC00, 0xD7A4), (0xE000, 0xE010), (0xF900, 0xFB20)),
    *((0xFB00, 0xFB50), (0xFE00, 0xFE70), (0xFF00, 0x10000), (0x10000, 0x11000), (0x11000, 0x12000)),
    *((0x16E00, 0x17000), (0x1CF00, 0x1D200), (0x1D400, 0x1D7FF), (0x1E000, 0x1E960), (0x1F000, 0x1FB00)),
    *((0x20000, 0x20010), (0x2B700, 0x2B950), (0x2F800, 0x2FA20), (0xE0000, 0xE01F0), (0xF0000, 0xF0004)),
)
CONTROL = (
    "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0)))) + "\u00ad\u180e\u200b\u200c\u200d\u2028\u2029\ufeff\ufffd"
)
PHRASES = (
    *("[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]", "[mask]", "[MASK", "##ing", "##", "[[SEP]]", "a[MASK]b"),
    *(
        "İstanbul",
        "ıI",
        "straße STRASSE ẞ",
        "ﬁne ﬀ",
        "Σίσυφος ΣΑΣ",
        "Ǆ ǅ",
        "\u212a\u212b",
        "naïve café",
        "e\u0301\u0323",
    ),
    *(
        "हिन्दी क़",
        "தமிழ்",
        "ไทย ที่",
        "עברית שָׁלוֹם",
        "العربيّة ﷺ",
        "한국어 각",
        "\u1112\u1161\u11ab",
        "日本語が\u3099",
        "ｆｕｌｌ１２",
    ),
    *(
        "👩\u200d👩\u200d👧\u200d👦",
        "🏳\ufe0f\u200d🌈",
        "👍🏽",
        "1\ufe0f\u20e3",
        "\U0001d15e\U0001d165\u302e\u0301",
        "\u1b44\u302e\u1b35",
    ),
    *(
        "don't stop",
        "U.S.A.",
        "$100^2=`x`~",
        "「引用」、。",
        "\u1d43b\u0363",
        "\u0fb2\u0f81",
        "\ud7b0\u11a8",
        "q\u0307\u0323\u093c",
    ),
)


def characters(rng: random.Random) -> str:
    low, high = rng.choice(BLOCKS)
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))


def odd_string(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(2, 12)):
        kind = rng.random()
        if kind < 0.35:
            parts.append(characters(rng))
        elif kind < 0.5:
            parts.append(rng.choice(PHRASES))
        elif kind < 0.6:
            parts.append(rng.choice(CONTROL))
        elif kind < 0.7:
            parts.append("".join(rng.choice("abcXYZéÅßñ\u0301\u0316\u0f71\u302e") for _ in range(rng.randint(1, 9))))
        elif kind < 0.72:
            parts.append(rng.choice("aéж한") * rng.randint(48, 103))
        elif kind < 0.76:
            code = rng.randrange(0x110000)
            parts.append("" if 0xD800 <= code < 0xE000 else chr(code))
        if rng.random() < 0.6:
            parts.append(rng.choice((" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2009")))
    return "".join(parts)


def vocabulary() -> bytes:
    """Special tokens, letters of many scripts (also in the middle of words) and pieces of two to four letters."""
    rng = random.Random(1)
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    singles = [chr(c) for low, high in BLOCKS for c in range(low, high) if rng.random() < 0.8]
    singles = [c for c in singles if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf")]
    longer = ["".join(rng.choice("abcdefghinorstxyz") for _ in range(rng.randint(2, 4))) for _ in range(3000)]
    longer += ["".join(rng.sample(singles, 2)) for _ in range(2000)] + ["a" * 40, "don", "stop", "ε" * 3]
    for word in singles + longer:
        words += [word, "##" + word]
    return ("\n".join(dict.fromkeys(words)) + "\n").encode()


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_bytes(vocabulary())
    return path


@pytest.mark.parametrize(
    ("lowercase", "count"), [(True, 2_000), pytest.param(True, 10_000, marks=pytest.mark.slow), (False, 1_000)]
)
def test_the_published_tokenizer_gives_the_same_ids(vocab: Path, lowercase: bool, count: int) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
    ids = {line: i for i, line in enumerate(vocab.read_text(encoding="utf-8").rstrip("\n").split("\n"))}
    oracle = transformers.BertTokenizerFast(vocab=ids, do_lower_case=lowercase)
    rng = random.Random(20211220 + lowercase)
    texts = [odd_string(rng) for _ in range(count)]
    assert len(set(texts)) > 0.9 * count
    want = oracle(texts[:1000], padding="max_length", truncation=True, max_length=77)["input_ids"]
    whole = oracle(texts, add_special_tokens=False)["input_ids"]
    ours = WordPieceTokenizer(vocab.read_bytes(), 77, lowercase=lowercase)
    wrong = [t for t, w in zip(texts, whole, strict=True) if ours.pieces(t) != w]
    assert not wrong, f"{len(wrong)} of {count}, as {wrong[0]!r}"
    assert [list(ours(t).ids) for t in texts[:1000]] == want
    known = sum(i != ours.unknown for row in whole for i in row) / sum(map(len, whole))
    assert 0.3 < known < 0.99  # the strings try both


def test_characters_one_by_one(vocab: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle, tokenizers, is not installed")
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    pre = tokenizers.pre_tokenizers.BertPreTokenizer()
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 61), *range(0xE0000, 0xE0200)]
    wrong = []
    for first in range(0, len(codes), 400):
        # Spelt out between letters, so that what is dropped, split and kept shows.
        text = "".join(f" a{chr(c)}\u302eb" for c in codes[first : first + 400])
        if bert_words.words(text, lowercase=True) != [
            w for w, _ in pre.pre_tokenize_str(normalizer.normalize_str(text))
        ]:
            wrong.append(hex(codes[first]))
    assert not wrong


def test_no_version_of_python_is_asked_about_young_characters() -> None:
    """Unicode 16's: a capital, a letter that comes apart and marks are the same, whether Python knows them or not."""
    assert bert_words.words("\u1c89 \U00010d50", lowercase=True) == ["\u1c8a", "\U00010d70"]
    assert bert_words.words("\U000105c9x\u0898\u0897", lowercase=True) == ["\U000105c9x\u0898\u0897"]
    assert bert_words.words("a\ud800b", lowercase=True) == ["ab"]  # half a pair


def test_the_algorithm_on_the_example_of_its_papers() -> None:
    pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\nwant\n##ed\n##want\n,\nrunning\n[MASK]"
    ours = WordPieceTokenizer(pieces.encode(), 12, lowercase=True)
    assert ours.pieces("UNwantéd,running") == [4, 9, 8, 10, 11]
    assert ours.pieces("unaffable unaffables [MASK]x[mask]") == [4, 5, 6, 1, 12, 1, 1, 1, 1]
    assert ours("").ids == (2, 3) + 10 * (0,)
    assert ours("unwanted").ids == (2, 4, 9, 8, 3) + 7 * (0,) and ours("unwanted").used == 5
    assert (ours.size, ours.pad) == (13, 0)
    long = "running unaffable, WANTED\nwant running unaffable un"  # 1 + 3 + 1 + 2 + 1 + 1 pieces, then 3
    assert ours(long).cut == "unaffable un" and len(ours(long).ids) == 12
    windows = WordPieceTokenizer(pieces.replace("\n", "\r\n").encode(), 12, lowercase=True)
    assert windows(long).ids == ours(long).ids


def test_kinds_of_tokenizers_are_told_apart_by_content(vocab: Path, tmp_path: Path) -> None:
    sentencepiece = train_tokenizer(["a red circle [UNK]", "a blue star"] * 3, 64, lowercase=True)
    assert is_vocabulary(vocab.read_bytes()) and not is_vocabulary(sentencepiece)
    assert not is_vocabulary(b"")
    site = Site(size=(32, 32), latent=LatentSpec(4, (8, 8)))
    config = TextConfig(vocab_size=80_000, width=8, layers=1, heads=1, head_width=8, length=9, tokenizer=str(vocab))
    text = TextConditioner(config, site).eval()
    assert isinstance(text.tokenizer, WordPieceTokenizer)
    assert text.truncated("a b c d e f g h i") == "h i"
    with torch.no_grad(), pytest.warns(TruncationWarning, match="cut off: 'h i'"):
        cond = text.encode({"caption": ["a b c d e f g h i", ""]})
        null = text.null(cond)
    assert cond.crossattn is not None and null.crossattn is not None and null.crossattn_mask is None
    torch.testing.assert_close(null.crossattn[0], cond.crossattn[1])
    # Its bytes travel with the weights, so that no file is needed any more.
    other = TextConditioner(attrs.evolve(config, tokenizer=""), site)
    other.load_state_dict(text.state_dict())
    assert other.tokenizer.model == vocab.read_bytes()
    assert other.tokenizer("a b").ids == text.tokenizer("a b").ids
    (tmp_path / "words.model").write_bytes(sentencepiece)
    other = TextConditioner(attrs.evolve(config, tokenizer=str(tmp_path / "words.model")), site)
    assert isinstance(other.tokenizer, CaptionTokenizer)


def test_errors_name_what_is_lacking() -> None:
    with pytest.raises(ConfigError, match=r"its 2 lines have no \[CLS\] and no \[PAD\]; give the vocab.txt"):
        WordPieceTokenizer(b"[UNK]\n[SEP]\n", 9, lowercase=True)
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 6"):
        WordPieceTokenizer(b"[UNK]\n\xff", 9, lowercase=True)
    site = Site(size=(32, 32), latent=LatentSpec(4, (8, 8)))
    text = TextConditioner(attrs.evolve(PRESETS["text"], width=8, layers=1, heads=1, logits=False), site)
    words = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + b"".join(b"w%d\n" % i for i in range(30519))
    with pytest.raises(ConfigError, match="it has 30523 pieces and vocab_size is 30522; set vocab_size=30523"):
        text.set_extra_state(torch.frombuffer(bytearray(words), dtype=torch.uint8))
