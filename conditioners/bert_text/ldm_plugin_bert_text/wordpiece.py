"""Captions to the word pieces of a BERT vocabulary (``vocab.txt``), as published text encoders read them. No torch.

Same ids as the published models' own tokenizer (Hugging Face's ``BertTokenizerFast``), by rules of our own: special
tokens are found in the raw text, the rest is cut into words (:mod:`bert_words`), and a word into the longest pieces of
the vocabulary, from the left (Wu et al. 2016, arXiv 1609.08144; Devlin et al. 2019).
"""

from __future__ import annotations

import io
import re

from ldm_core.errors import ConfigError
from ldm_plugin_bert_text.bert_words import words
from ldm_plugin_bert_text.tokenizer import Tokens, reach

UNKNOWN, START, END, PADDING = NEEDED = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
SPECIAL = (*NEEDED, "[MASK]")
LONGEST_WORD = 100
"""Characters from which on a word is unknown as a whole."""
CACHED_WORDS = 65_536


def is_vocabulary(model: bytes) -> bool:
    """True for text, one token a line, and no sentencepiece model (with its zero bytes)."""
    if b"\0" in model or b"[UNK]" not in model:
        return False
    try:
        model.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class WordPieceTokenizer:
    """A BERT vocabulary (the bytes of a ``vocab.txt``: a token a line, ids by line): `length` ids for a caption.

    Layout: [CLS], pieces, [SEP], [PAD]; of a longer caption the first pieces are kept. `lowercase` also strips accents,
    as bert-base-uncased does. Safe to share between threads. `where` names the file in errors. Raises ConfigError if it
    is no text or lacks a special token.
    """

    def __init__(self, model: bytes, length: int, *, lowercase: bool, where: str = "tokenizer") -> None:
        self.model, self.length, self.lowercase = model, length, lowercase
        try:
            lines = list(io.TextIOWrapper(io.BytesIO(model), encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{where}: not UTF-8 text at byte {error.start}; a vocab.txt has a token a line"
            ) from None
        # As the published tokenizer reads it: a token that comes twice has its last line's id.
        self._ids = {line.rstrip("\n"): i for i, line in enumerate(lines)}
        if lacking := [token for token in NEEDED if token not in self._ids]:
            raise ConfigError(
                f"{where}: its {len(lines)} lines have no {' and no '.join(lacking)}; give the vocab.txt of a BERT "
                "tokenizer, one token a line"
            )
        self.size = len(lines)
        self.unknown, self.pad = self._ids[UNKNOWN], self._ids[PADDING]
        self.start: tuple[int, ...] = (self._ids[START],)
        self.end: tuple[int, ...] = (self._ids[END],)
        self._longest = max(map(len, self._ids))
        self._special = re.compile("(" + "|".join(re.escape(t) for t in SPECIAL if t in self._ids) + ")")
        self._known: dict[str, tuple[int, ...]] = {}

    def __call__(self, text: str) -> Tokens:
        """Tokenise one caption; see :class:`Tokens`."""
        room = self.length - 2
        pieces = self.pieces(text)
        cut = ""
        if len(pieces) > room:
            cut = text[reach(text, room, lambda end: len(self.pieces(text[:end]))) :].strip()
        ids = (*self.start, *pieces[:room], *self.end)
        return Tokens(ids + (self.pad,) * (self.length - len(ids)), len(ids), cut)

    def pieces(self, text: str) -> list[int]:
        """The ids of all of `text`, without start, end and padding. Special tokens in it are themselves."""
        out: list[int] = []
        for i, part in enumerate(self._special.split(text)):
            if i % 2:
                out.append(self._ids[part])
            else:
                for word in words(part, lowercase=self.lowercase):
                    out += self._word(word)
        return out

    def _word(self, word: str) -> tuple[int, ...]:
        known = self._known.get(word)
        if known is None:
            known = self._cut(word)
            if len(self._known) >= CACHED_WORDS:
                self._known.clear()
            self._known[word] = known
        return known

    def _cut(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self.unknown,)
        out: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    break
            else:
                return (self.unknown,)
            out.append(found)
            start = end
        return tuple(out)
