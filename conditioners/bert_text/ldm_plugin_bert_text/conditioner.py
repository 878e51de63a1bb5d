"""The text conditioner: captions -> tokens -> transformer encoder -> cross-attention."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError
from ldm_core.nn.transformer import TokenTransformer
from ldm_plugin_bert_text.config import TextConfig
from ldm_plugin_bert_text.tokenizer import CaptionTokenizer, Tokenizer, Tokens, TruncationWarning, train_tokenizer
from ldm_plugin_bert_text.wordpiece import WordPieceTokenizer, is_vocabulary

CACHED_CAPTIONS = 16_384
"""Captions with kept tokens; data sets with more are tokenised as they come."""


class TextConditioner(Conditioner, nn.Module):
    """Captions (B strings) -> crossattn (B, length, width), and with `mask` crossattn_mask (B, length).

    The null is the encoding of the empty caption. The tokenizer is part of the state, as the bytes of a sentencepiece
    model or of a BERT ``vocab.txt``: :meth:`fit` trains the former, or reads the one named in the config. A caption
    longer than `length` is cut, with a :class:`TruncationWarning` (in training one only, for the first). Row i depends
    on caption i alone.
    """

    def __init__(self, config: TextConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.transformer = TokenTransformer.of(config, config.length if config.positions else 0)
        self._tokenizer: Tokenizer | None = None
        self._cache: dict[str, Tokens] = {}
        self._warned = False

    # ------------------------------------------------------------------------------------------------ tokenizer

    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        """Train the tokenizer on the examples' captions, or read the one named in the config. Deterministic.

        Raises DataError for captions without text or without a word, ConfigError for an unfit tokenizer.
        """
        if self.config.tokenizer:
            self._use(self._named())
            return
        size = self.config.vocab_size - self.config.spare_tokens
        self._use(train_tokenizer(self._captions(examples), size, lowercase=self.config.lowercase))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in use; ConfigError if there is none yet."""
        if self._tokenizer is None:
            if not self.config.tokenizer:
                raise ConfigError(
                    "text: it has no tokenizer yet; fit it on captions, load weights that bring theirs, or name a "
                    "sentencepiece model or a BERT vocab.txt: conditioners.text.tokenizer=PATH (text: the "
                    "conditioner's name)"
                )
            self._use(self._named())
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def spare_ids(self) -> range:
        """Rows of the token table used by no caption, for learned concepts."""
        return range(self.tokenizer.size, self.config.vocab_size)

    def truncated(self, text: str) -> str:
        """The end of `text` beyond `length` tokens; "" if all of it fits."""
        return self._tokens(text).cut

    def _named(self) -> bytes:
        from ldm_core.storage import read_bytes

        return read_bytes(self.config.tokenizer)

    def _use(self, model: bytes) -> None:
        where = f"tokenizer '{self.config.tokenizer}'" if self.config.tokenizer else "tokenizer"
        kind: type[CaptionTokenizer | WordPieceTokenizer]
        kind = WordPieceTokenizer if is_vocabulary(model) else CaptionTokenizer
        tokenizer: Tokenizer = kind(model, self.config.length, lowercase=self.config.lowercase, where=where)
        if tokenizer.size > self.config.vocab_size:
            raise ConfigError(
                f"{where}: it has {tokenizer.size} pieces and vocab_size is {self.config.vocab_size}; "
                f"set vocab_size={tokenizer.size} or more"
            )
        self._cache = {}
        self._tokenizer = tokenizer

    def _captions(self, examples: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        for index, example in enumerate(examples):
            if self.config.key not in example:
                raise DataError(f"example {index} has no '{self.config.key}'; it has: {', '.join(sorted(example))}")
            yield self._checked(example[self.config.key], index)

    def _checked(self, text: Any, index: int) -> str:
        if not isinstance(text, str):
            raise DataError(f"'{self.config.key}' of example {index} is {type(text).__name__}, a text (str) is needed")
        return text

    def _tokens(self, text: str) -> Tokens:
        cache = self._cache
        tokens = cache.get(text)
        if tokens is None:
            tokens = self.tokenizer(text)
            if len(cache) >= CACHED_CAPTIONS:
                cache.clear()
            cache[text] = tokens
        return tokens

    # -------------------------------------------------------------------------------------------------- encoding

    def encode(self, batch: Batch) -> Cond:
        """Encode the captions of a batch (a list of B strings). DataError naming the index and type of a non-text."""
        texts = batch[self.config.key]
        if isinstance(texts, str) or not isinstance(texts, list | tuple):
            raise DataError(f"'{self.config.key}' of a batch is {type(texts).__name__}, a list of texts is needed")
        tokens = [self._tokens(self._checked(text, index)) for index, text in enumerate(texts)]
        if not (self.training and self._warned):
            for text, row in zip(texts, tokens, strict=True):
                if row.cut:
                    self._warned = True
                    warnings.warn(
                        f"'{_short(text)}' is longer than {self.config.length} tokens; cut off: '{row.cut}'",
                        TruncationWarning,
                        stacklevel=2,
                    )
                    if self.training:
                        break
        if self.training and self.config.token_dropout > 0.0:
            tokens = [self._thinned(row) for row in tokens]
        return self._embed(tokens)

    def _thinned(self, row: Tokens) -> Tokens:
        """`row` without a random share of the caption's tokens; one of them stays. Numbers are torch's, as a dropout's:
        they go on with a resumed run."""
        first, last = len(self.tokenizer.start), row.used - len(self.tokenizer.end)
        if last - first < 2:
            return row
        kept = torch.rand(last - first) >= self.config.token_dropout
        if not bool(kept.any()):
            kept[int(torch.randint(len(kept), ()))] = True
        inner = [one for one, stays in zip(row.ids[first:last], kept.tolist(), strict=True) if stays]
        ids = (*row.ids[:first], *inner, *row.ids[last : row.used])
        return Tokens(ids + (self.tokenizer.pad,) * (len(row.ids) - len(ids)), len(ids), row.cut)

    def null(self, like: Cond) -> Cond:
        """The encoding of the empty caption, once for each row of `like`, in the length of `like`.

        A longer `like` (learned tokens were added) gets the last vector repeated, masked if there is a mask.
        """
        one = self._embed([self._tokens("")])
        rows, length, own = like.rows() or 0, self.config.length, self.config.length
        if like.crossattn is not None:
            length = like.crossattn.shape[1]
        if length != own:
            places = torch.arange(length, device=self._device())
            one = one.map(lambda v: v[:, places.clamp(max=own - 1)])
            if one.crossattn_mask is not None:
                one = one._replace(crossattn_mask=one.crossattn_mask & (places < own))
        return one.map(lambda v: v.expand(rows, *v.shape[1:]))

    def _device(self) -> torch.device:
        return self.transformer.token_emb.weight.device

    def _embed(self, tokens: list[Tokens]) -> Cond:
        device = self._device()
        # Each different caption goes through the network once: prompts are sampled many times over, and small data
        # sets repeat their captions within a batch.
        distinct = list(dict.fromkeys(tokens))
        ids = torch.tensor([row.ids for row in distinct], dtype=torch.long, device=device)
        ids = ids.reshape(-1, self.config.length)  # (B,L), also of no captions
        mask: Tensor | None = None
        if self.config.mask:
            used = torch.tensor([row.used for row in distinct], device=device)
            mask = torch.arange(self.config.length, device=device) < used[:, None]  # (B,L)
        cond = Cond(crossattn=self.transformer(ids, mask), crossattn_mask=mask)
        if len(distinct) == len(tokens):
            return cond
        place = {row: i for i, row in enumerate(distinct)}
        rows = torch.tensor([place[row] for row in tokens], device=device)
        return cond.map(lambda v: v[rows])

    # --------------------------------------------------------------------------------------------------- the state

    def get_extra_state(self) -> Tensor:
        """The tokenizer's bytes as a uint8 tensor (N,); empty if there is none yet."""
        model = self._tokenizer.model if self._tokenizer is not None else b""
        return torch.frombuffer(bytearray(model), dtype=torch.uint8) if model else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer's bytes (N,) uint8; none leaves it without a tokenizer."""
        if state.numel():
            self._use(state.cpu().numpy().tobytes())
        else:
            self._tokenizer, self._cache = None, {}


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
