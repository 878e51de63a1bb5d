"""Captions to token ids by a sentencepiece model, given or trained on the captions at hand. Imports no torch.

Word pieces of a BERT vocabulary: :mod:`ldm_plugin_bert_text.wordpiece`.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ldm_core.errors import ConfigError, DataError

MAX_CAPTIONS = 1_000_000
"""Captions to train a tokenizer on at most, the first ones; the trainer holds them in memory."""

LONG_WORD = 40
"""Characters from which on a word is taken for a sentence of a script without spaces."""


class TruncationWarning(UserWarning):
    """A caption longer than the conditioner's length; the message quotes the end left out."""


class Tokens(NamedTuple):
    """A caption's ids, all of the tokenizer's length; how many of them are no padding; and the text cut off."""

    ids: tuple[int, ...]
    used: int
    cut: str


class Tokenizer(Protocol):
    """A tokenizer of either kind, as the conditioner needs it.

    `model`: its bytes, which travel with the weights. `size`: ids it knows. `start`, `end`: the ids around a caption's
    own, none or one. `pad`: padding's id.
    """

    model: bytes
    start: tuple[int, ...]
    end: tuple[int, ...]
    size: int
    pad: int

    def __call__(self, text: str) -> Tokens:
        """Tokenise one caption; see :class:`Tokens`."""
        ...


class CaptionTokenizer:
    """A sentencepiece model (its serialised bytes): `length` ids for every caption.

    Layout: start, pieces, end, padding; of a longer caption the first pieces are kept. A model without a start or an
    end piece goes without; one without padding pads with its end, or else its unknown piece. Immutable and safe to
    share between threads. `where` names the model in errors. Raises ConfigError for bytes that are no model.
    """

    def __init__(self, model: bytes, length: int, *, lowercase: bool, where: str = "tokenizer") -> None:
        import sentencepiece

        self.model, self.length, self.lowercase = model, length, lowercase
        try:
            self._pieces: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.size: int = self._pieces.vocab_size()
        except (RuntimeError, OSError):
            self.size = 0
        if not self.size:
            raise ConfigError(
                f"{where}: not a sentencepiece model and no vocab.txt with [UNK]; give the .model file that its "
                "trainer wrote, or the vocab.txt of a BERT tokenizer"
            )
        start, end, pad = self._pieces.bos_id(), self._pieces.eos_id(), self._pieces.pad_id()
        self.start: tuple[int, ...] = (start,) if start >= 0 else ()
        self.end: tuple[int, ...] = (end,) if end >= 0 else ()
        self.pad: int = next(i for i in (pad, end, self._pieces.unk_id()) if i >= 0)

    def __call__(self, text: str) -> Tokens:
        """Tokenise one caption; see :class:`Tokens`."""
        read = text.lower() if self.lowercase else text
        room = self.length - len(self.start) - len(self.end)
        pieces = self._pieces.encode(read)
        cut = ""
        if len(pieces) > room:
            # In a few scripts lowering changes the length; there the text is quoted as it was read.
            source = text if len(text) == len(read) else read
            cut = source[reach(read, room, lambda end: len(self._pieces.encode(read[:end]))) :].strip()
        ids = (*self.start, *pieces[:room], *self.end)
        return Tokens(ids + (self.pad,) * (self.length - len(ids)), max(len(ids), 1), cut)


def reach(text: str, room: int, pieces: Callable[[int], int]) -> int:
    """The end of the last whole word of `text` within `room` pieces, as a number of characters.

    `pieces(end)` counts those of the text up to `end`. Found by trying, since the libraries' own offsets need other
    calls in other versions. Scripts without spaces make one long word of a sentence; there the last fitting character
    counts.
    """
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    words = bisect_right(ends, room, key=pieces)
    reached = ends[words - 1] if words else 0
    if words < len(ends) and ends[words] - reached > LONG_WORD:
        reached += bisect_right(range(reached + 1, ends[words]), room, key=pieces)
    return reached


def train_tokenizer(captions: Iterable[str], vocab_size: int, *, lowercase: bool) -> bytes:
    """Train a byte-pair sentencepiece model of at most `vocab_size` pieces; the same captions give the same bytes.

    Pieces never span words; few captions give fewer pieces. Ids 0 to 3 are padding, unknown, start and end. Raises
    DataError if no caption holds a word, ConfigError if `vocab_size` cannot hold the characters.
    """
    import sentencepiece

    kept: list[str] = []
    for caption in captions:
        if words := " ".join(caption.split()):
            kept.append(words.lower() if lowercase else words)
        if len(kept) == MAX_CAPTIONS:
            break
    if not kept:
        raise DataError("no caption holds a word, so there is nothing to train the tokenizer on; set tokenizer=MODEL")
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(kept),
            model_writer=out,
            # Byte pairs: on a few hundred captions the unigram trainer prunes whole words away, down to letters.
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=1,
            max_sentence_length=1 << 20,
            minloglevel=2,
        )
    except RuntimeError as error:
        if "ocabulary size" not in str(error):
            raise
        characters = len(set("".join(kept)))
        raise ConfigError(
            f"vocab_size: {vocab_size} tokens cannot hold the captions' {characters} different characters; raise it to "
            f"{4 * characters + 64} or more"
        ) from None
    return out.getvalue()
