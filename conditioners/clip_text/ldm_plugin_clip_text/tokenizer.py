"""CLIP's byte pairs: captions to token ids, and the files of a tokenizer. Imports no torch.

Same ids as transformers' ``CLIPTokenizer`` without ftfy: NFC, runs of white space as one space, lower case, words of
letters, single digits and runs of other signs, bytes, pairs with ``</w>`` at a word's end (Radford et al. 2021).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_core import storage
from ldm_core.errors import ConfigError
from ldm_plugin_clip_text.config import TOKENIZER_FILES

START, END = "<|startoftext|>", "<|endoftext|>"
MOST_BYTES = 64 << 20
"""Bytes of a tokenizer's file; CLIP's has two million."""
LONG_WORD = 40
"""Characters from which on a word is taken for a sentence of a script without spaces."""
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PUBLISHED = "give the tokenizer's folder of a published CLIP model"


class TruncationWarning(UserWarning):
    """A caption longer than the conditioner's length; the message quotes the end left out."""


class Tokens(NamedTuple):
    """A caption's ids, all of the tokenizer's length, and the text cut off."""

    ids: tuple[int, ...]
    cut: str


def read_files(url: str) -> bytes:
    """The tokenizer at `url`, a ``tokenizer.json`` or a folder with it or with vocab.json and merges.txt, as the JSON
    text kept with the weights: ``{"vocab": {token: id}, "merges": ["a b", ...]}``.

    Raises ConfigError if it is no byte-pair tokenizer or too large for one.
    """
    names = ["tokenizer.json"]
    if storage.is_folder(url):
        names = [name for name in TOKENIZER_FILES if storage.exists(storage.join(url, name))]
        files = {name: storage.join(url, name) for name in names}
    else:
        files = {"tokenizer.json": url}
    where = f"tokenizer '{storage.shown(url)}'"
    if "tokenizer.json" in files:
        whole = _json(_bytes(files["tokenizer.json"], where), where)
        model = whole.get("model", whole) if isinstance(whole, Mapping) else {}
        vocab, merges = model.get("vocab"), model.get("merges")
        if model.get("type", "BPE") != "BPE" or not isinstance(vocab, Mapping) or not isinstance(merges, list):
            raise ConfigError(f"{where}: holds no vocabulary with merges of byte pairs; {_PUBLISHED}")
    elif {"vocab.json", "merges.txt"} <= files.keys():
        vocab = _json(_bytes(files["vocab.json"], where), where)
        try:
            lines = _bytes(files["merges.txt"], where).decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where}: merges.txt is not UTF-8 text at byte {error.start}; copy it again") from None
        merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    else:
        raise ConfigError(f"{where}: holds neither tokenizer.json nor vocab.json with merges.txt; {_PUBLISHED}")
    merges = [" ".join(m) if isinstance(m, list) and all(isinstance(w, str) for w in m) else m for m in merges]
    return json.dumps({"vocab": vocab, "merges": merges}, ensure_ascii=False).encode()


def _bytes(url: str, where: str) -> bytes:
    size = storage.info(url).size
    if size > MOST_BYTES:
        raise ConfigError(f"{where}: {storage.base_name(url)} has {size:,} bytes, at most {MOST_BYTES:,} are read")
    return storage.read_bytes(url)


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not readable as JSON ({str(error).splitlines()[0]}); {_PUBLISHED}") from None


class ClipTokenizer:
    """Byte pairs: `length` ids for every caption, start, pieces, end, padding.

    `model`: the bytes of :func:`read_files`. `padding`: the token that fills up; unlike transformers', one that is a
    word of its own ("!") is read in a caption as any other word, as OpenCLIP reads it. Of a longer caption the first
    pieces are kept. Safe to share between threads. Raises ConfigError for bytes of no tokenizer.
    """

    def __init__(self, model: bytes, length: int, *, padding: str = END, where: str = "tokenizer") -> None:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

        self.model, self.length = model, length
        whole = _json(model, where)
        vocab, merges = (whole.get("vocab"), whole.get("merges")) if isinstance(whole, Mapping) else (None, None)
        pairs = _checked(vocab, merges, where)
        assert isinstance(vocab, Mapping)
        for word in (START, END, padding):
            if word not in vocab:
                raise ConfigError(f"{where}: its vocabulary lacks {word[:40]!r}; {_PUBLISHED}, or set padding")
        try:
            pieces = models.BPE(
                vocab=dict(vocab),
                merges=pairs,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=END,
            )
        except Exception as error:  # the library's one class of errors is Exception itself
            raise ConfigError(f"{where}: its merges do not fit its vocabulary ({error}); {_PUBLISHED}") from None
        self._pieces = Tokenizer(pieces)
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        self._pieces.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
        self._pieces.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        self._pieces.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
        self.start, self.end, self.pad = (int(vocab[word]) for word in (START, END, padding))
        self.size = max(vocab.values()) + 1

    def __call__(self, text: str) -> Tokens:
        """Tokenise one caption; see :class:`Tokens`. Halves of surrogate pairs are left out, as they are no text."""
        text = text.encode("utf-8", "ignore").decode("utf-8")
        found = self._pieces.encode(text, add_special_tokens=False)
        room = self.length - 2
        cut = ""
        if len(found.ids) > room:
            cut = text[_word_start(text, found.offsets[room][0]) :].strip()
        ids = (self.start, *found.ids[:room], self.end)
        return Tokens(ids + (self.pad,) * (self.length - len(ids)), cut)


def _checked(vocab: Any, merges: Any, where: str) -> list[tuple[str, str]]:
    """The merges as pairs; ConfigError if vocabulary or merges are none."""
    numbers = list(vocab.values()) if isinstance(vocab, Mapping) else []
    if not numbers or not all(type(n) is int and 0 <= n < 1 << 31 for n in numbers) or len({*numbers}) < len(numbers):
        raise ConfigError(f"{where}: its vocabulary is no table of tokens with a number each; {_PUBLISHED}")
    pairs = [tuple(m.split(" ")) for m in merges if isinstance(m, str)] if isinstance(merges, list) else []
    if not isinstance(merges, list) or len(pairs) < len(merges) or any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"{where}: its merges are no list of pairs; {_PUBLISHED}")
    return pairs  # type: ignore[return-value]


def _word_start(text: str, place: int) -> int:
    """The start of the word around `place`, or `place` itself in one as long as only sentences without spaces are."""
    before, after = re.search(r"\S*\Z", text[:place]), re.match(r"\S*", text[place:])
    assert before is not None and after is not None
    return before.start() if before.end() - before.start() + after.end() <= LONG_WORD else place
