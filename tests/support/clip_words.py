"""A small vocabulary of CLIP's form, made here: bytes, bytes at a word's end, merges of some words, special tokens."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = (
    *("a an the of on in red green blue star circle square photo painting cat cats dog house in front don stop it's"),
    *("naïve café straße über ж привет мир 日 本 語 한 국 ﬁ 👍 ❤ 123 !! ... :) हि न्दी σ ς"),
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte, in the published order: printable bytes first, as themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, merges), as vocab.json and merges.txt hold them; "!" has id 0 as in the published one."""
    letters = byte_letters()
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = plain + [b for b in range(256) if b not in plain]
    letter_of = dict(zip(order, letters, strict=True))
    merges: list[tuple[str, str]] = []
    for word in "".join(WORDS).split(" "):
        parts = [letter_of[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *dict.fromkeys(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_folder(folder: Path) -> Path:
    """vocab.json and merges.txt, as published."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
