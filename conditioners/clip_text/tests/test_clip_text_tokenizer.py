"""CLIP's byte pairs against transformers' tokenizer; files of a tokenizer, sound and broken."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from clip_words import vocabulary, write_folder
from ldm_plugin_clip_text.tokenizer import END, START, ClipTokenizer, read_files

from ldm_core.errors import ConfigError

PIECES = (
    *(
        "a photo of",
        "Red",
        "CATS",
        "don't",
        "it's",
        "we'LL",
        "I'm",
        "x'd",
        "123",
        "1a2",
        "!!",
        "...",
        ":)",
        "hello,world",
    ),
    *(
        "naïve",
        "nai\u0308ve",
        "İstanbul",
        "straße",
        "ﬁ",
        "Σίσυφος",
        "ΣΑΣ",
        "привет",
        "日本語",
        "한국",
        "\u1112\u1161\u11ab",
        "हिन्दी",
        "שָׁלוֹם",
    ),
    *(
        "👍",
        "👩\u200d👧",
        "❤\ufe0f",
        "\x00",
        "\x07",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "²½Ⅷ٣",
        "_",
        "\U000e0041",
        "\U00030000",
    ),
    *("<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext", "</w>", "a</w>", "&amp;", "â€œ"),
)
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "")


def odd_string(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(2, 10)):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(PIECES))
        elif kind < 0.9:
            low = rng.choice(
                (0x20, 0x20, 0xA0, 0x300, 0x400, 0x600, 0x900, 0x1100, 0x1E00, 0x2000, 0x3040, 0xAC00, 0x1F300)
            )
            parts.append("".join(chr(low + rng.randrange(96)) for _ in range(rng.randint(1, 6))))
        else:
            code = rng.randrange(0x110000)
            parts.append("" if 0xD800 <= code < 0xE000 else chr(code))
        parts.append(rng.choice(SPACES))
    return "".join(parts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return read_files(str(write_folder(tmp_path_factory.mktemp("clip"))))


def test_the_same_ids_as_transformers(model: bytes) -> None:
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    oracle = CLIPTokenizer(vocab=vocab, merges=merges)
    rng = random.Random(7)
    texts = [odd_string(rng) for _ in range(10_000)]
    ours = ClipTokenizer(model, 77)
    want = oracle(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    wrong = [t for t, w in zip(texts, want, strict=True) if list(ours(t).ids) != w]
    assert not wrong, f"{len(wrong)}, as {wrong[0]!r}"
    assert len(set(texts)) > 9_900
    merged = sum(i >= 512 for row in want for i in row if i not in (ours.start, ours.end))
    assert merged > 10_000  # words, and not only bytes


def test_padding_and_exclamation_marks(model: bytes) -> None:
    """Stable Diffusion 2 pads with id 0, "!", which ends no word: in a caption, "!" is another token."""
    vocab, _ = vocabulary()
    ours = ClipTokenizer(model, 8, padding="!")
    assert ours("red!").ids == (ours.start, vocab["red</w>"], vocab["!</w>"], ours.end, 0, 0, 0, 0)
    assert ClipTokenizer(model, 6)("").ids == (ours.start, *5 * (ours.end,))
    assert ours.pad == 0 and ours.size == len(vocab)
    assert ours("a\ud800b").ids == ours("ab").ids  # half a surrogate pair is no text


def test_what_is_cut(model: bytes) -> None:
    ours = ClipTokenizer(model, 6)
    assert ours("a red star").cut == ""
    assert ours("a  RED star of\n The Blue circle").cut == "The Blue circle"
    assert ours("a red star nai\u0308vex on").cut == "nai\u0308vex on"  # a word that would be cut in two
    assert ours("a red star of <|endoftext|> x").ids[-2:] == (vocabulary()[0]["of</w>"], ours.end)
    long = "x" * 60
    assert ours(long).cut == "x" * 56


def test_files_of_every_layout(model: bytes, tmp_path: Path) -> None:
    vocab, merges = vocabulary()
    assert json.loads(model) == {"vocab": vocab, "merges": [f"{a} {b}" for a, b in merges]}
    whole = {"version": "1.0", "model": {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    for url in (tmp_path, tmp_path / "tokenizer.json"):
        assert json.loads(read_files(str(url))) == json.loads(model)
    windows = write_folder(tmp_path / "windows") / "merges.txt"
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n"))
    assert json.loads(read_files(str(windows.parent))) == json.loads(model)


VOCAB: dict[str, Any] = {"a": 0, "b": 1, "ab": 2, START: 3, END: 4}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"\xff", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[]", "no table of tokens"),
        (b'{"vocab": {"a": "b"}, "merges": []}', "no table of tokens"),
        (b'{"vocab": {"a": true}, "merges": []}', "no table of tokens"),
        (b'{"vocab": {"a": -1}, "merges": []}', "no table of tokens"),
        (b'{"vocab": {"a": 9999999999999}, "merges": []}', "no table of tokens"),
        (b'{"vocab": {"a": 1, "b": 1}, "merges": []}', "no table of tokens"),
        (json.dumps({"vocab": VOCAB}).encode(), "no list of pairs"),
        (json.dumps({"vocab": VOCAB, "merges": [3]}).encode(), "no list of pairs"),
        (json.dumps({"vocab": VOCAB, "merges": ["a b c"]}).encode(), "no list of pairs"),
        (json.dumps({"vocab": VOCAB, "merges": ["a c"]}).encode(), "do not fit its vocabulary"),
        (json.dumps({"vocab": {"a": 0}, "merges": []}).encode(), r"lacks '<\|startoftext\|>'"),
    ],
)
def test_what_is_no_tokenizer(model: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipTokenizer(model, 8)


def test_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds neither tokenizer\.json nor vocab\.json with"):
        read_files(str(tmp_path / "empty"))
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece", "vocab": {}}}')
    with pytest.raises(ConfigError, match="no vocabulary with merges"):
        read_files(str(tmp_path))
    folder = write_folder(tmp_path / "clip")
    (folder / "merges.txt").write_bytes(b"a b\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"merges.txt is not UTF-8 text at byte 4"):
        read_files(str(folder))
    monkeypatch.setattr("ldm_plugin_clip_text.tokenizer.MOST_BYTES", 100)
    with pytest.raises(ConfigError, match=r"vocab.json has [\d,]+ bytes, at most 100 are read"):
        read_files(str(folder))
