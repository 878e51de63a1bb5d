"""The CLIP text conditioner: captions -> byte pairs -> CLIP's text encoder -> cross-attention."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core import Conditioner, storage
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_plugin_clip_text.config import ClipTextConfig
from ldm_plugin_clip_text.network import ClipText
from ldm_plugin_clip_text.tokenizer import ClipTokenizer, Tokens, TruncationWarning, read_files

CACHED_CAPTIONS = 16_384
"""Captions with kept tokens; data sets with more are tokenised as they come."""


class ClipTextConditioner(Conditioner, nn.Module):
    """Captions (B strings) -> crossattn (B, length, width); padding is attended to, as in Stable Diffusion.

    The null is the encoding of the empty caption. Weights have the names of published checkpoints,
    ``transformer.text_model.*``; the tokenizer is part of the state. A caption longer than `length` is cut, with a
    :class:`TruncationWarning` (in training one only, for the first). Row i depends on caption i alone.
    """

    def __init__(self, config: ClipTextConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.transformer = ClipText(config)
        self._tokenizer: ClipTokenizer | None = None
        self._cache: dict[str, Tokens] = {}
        self._warned = False

    # --------------------------------------------------------------------------------------- tokenizer and weights

    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        """Read the tokenizer, and the weights if the config names some; the examples are not looked at.

        Raises ConfigError if no tokenizer is named or it does not fit, CheckpointError if the weights do not.
        """
        del examples
        self._use(self._named())
        if self.config.weights:
            self._load(self.config.weights)

    @property
    def tokenizer(self) -> ClipTokenizer:
        """The tokenizer in use; ConfigError if there is none yet."""
        if self._tokenizer is None:
            self._use(self._named())
        assert self._tokenizer is not None
        return self._tokenizer

    def truncated(self, text: str) -> str:
        """The end of `text` beyond `length` tokens; "" if all of it fits."""
        return self._tokens(text).cut

    def _named(self) -> bytes:
        if not self.config.tokenizer:
            raise ConfigError(
                "clip_text: it has no tokenizer; name the folder with vocab.json and merges.txt of a published CLIP "
                "model with conditioners.text.tokenizer=FOLDER (text: the conditioner's name), or load weights that "
                "bring theirs"
            )
        return read_files(self.config.tokenizer)

    def _use(self, model: bytes) -> None:
        where = f"tokenizer '{storage.shown(self.config.tokenizer)}'" if self.config.tokenizer else "tokenizer"
        tokenizer = ClipTokenizer(model, self.config.length, padding=self.config.padding, where=where)
        if tokenizer.size > self.config.vocab_size:
            raise ConfigError(
                f"{where}: its ids go up to {tokenizer.size - 1} and vocab_size is {self.config.vocab_size}; "
                f"set vocab_size={tokenizer.size} or more"
            )
        self._cache = {}
        self._tokenizer = tokenizer

    def _load(self, url: str) -> None:
        """Weights of a CLIPTextModel, or the text half of a whole CLIPModel's."""
        from ldm_core.weights.source import open_source

        shown = storage.shown(url)
        file = open_source(url).tensors()
        own = dict(self.transformer.named_parameters())
        names = {name if name in file.infos else name.removeprefix("text_model."): name for name in own}
        missing = [name for name in names if name not in file.infos]
        if missing:
            raise CheckpointError(
                f"{shown}: no weights of a CLIP text encoder of {self.config.layers} layers; {len(missing)} of "
                f"{len(own)} tensors are missing, the first is '{missing[0]}'"
            )
        for stored, name in names.items():
            if tuple(file.infos[stored].shape) != tuple(own[name].shape):
                raise CheckpointError(
                    f"{shown}: '{stored}' has shape {tuple(file.infos[stored].shape)}, {tuple(own[name].shape)} is "
                    "built; set width, inner, length and vocab_size as the file has them"
                )
        with torch.no_grad():
            for stored, name in names.items():
                own[name].copy_(file.read(stored))

    # ---------------------------------------------------------------------------------------------------- encoding

    def encode(self, batch: Batch) -> Cond:
        """Encode the captions of a batch (a list of B strings). DataError naming the index and type of a non-text."""
        texts = batch[self.config.key]
        if isinstance(texts, str) or not isinstance(texts, list | tuple):
            raise DataError(f"'{self.config.key}' of a batch is {type(texts).__name__}, a list of texts is needed")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise DataError(f"'{self.config.key}' of example {index} is {kind}, a text (str) is needed")
        tokens = [self._tokens(text) for text in texts]
        cut = [(text, row.cut) for text, row in zip(texts, tokens, strict=True) if row.cut]
        if cut and not (self.training and self._warned):
            for text, rest in cut[:1] if self.training else cut:
                self._warned = True
                short = text if len(text) <= 60 else text[:57] + "..."
                warnings.warn(
                    f"'{short}' is longer than {self.config.length} tokens; cut off: '{rest}'",
                    TruncationWarning,
                    stacklevel=2,
                )
        return self._embed(tokens)

    def null(self, like: Cond) -> Cond:
        """The encoding of the empty caption, once for each row of `like`, in the length of `like`.

        A longer `like` (learned tokens were added) gets the last vector repeated; a mask is true wherever it was.
        """
        one = self._embed([self._tokens("")]).crossattn
        assert one is not None
        rows, length = like.rows() or 0, self.config.length
        if like.crossattn is not None and like.crossattn.shape[1] != length:
            places = torch.arange(like.crossattn.shape[1], device=one.device)
            one = one[:, places.clamp(max=length - 1)]
        mask = like.crossattn_mask
        if mask is not None:
            mask = torch.arange(mask.shape[1], device=mask.device).expand(rows, -1) < length
        return Cond(crossattn=one.expand(rows, *one.shape[1:]), crossattn_mask=mask)

    def _tokens(self, text: str) -> Tokens:
        cache = self._cache
        tokens = cache.get(text)
        if tokens is None:
            tokens = self.tokenizer(text)
            if len(cache) >= CACHED_CAPTIONS:
                cache.clear()
            cache[text] = tokens
        return tokens

    def _embed(self, tokens: list[Tokens]) -> Cond:
        device = self.transformer.text_model.final_layer_norm.weight.device
        # Each different caption goes through the network once: prompts are sampled many times over.
        distinct = list(dict.fromkeys(row.ids for row in tokens))
        ids = torch.tensor(distinct, dtype=torch.long, device=device).reshape(-1, self.config.length)  # (B,L)
        vectors: Tensor = self.transformer(ids) if distinct else ids.new_zeros((0, *self._shape()), dtype=torch.float32)
        if len(distinct) < len(tokens):
            place = {row: i for i, row in enumerate(distinct)}
            vectors = vectors[torch.tensor([place[row.ids] for row in tokens], device=device)]
        return Cond(crossattn=vectors)

    def _shape(self) -> tuple[int, int]:
        return self.config.length, self.config.width

    # --------------------------------------------------------------------------------------------------- the state

    def get_extra_state(self) -> Tensor:
        """The tokenizer, JSON text as a uint8 tensor (N,); empty if there is none yet."""
        model = self._tokenizer.model if self._tokenizer is not None else b""
        return torch.frombuffer(bytearray(model), dtype=torch.uint8) if model else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer's bytes (N,) uint8; none leaves it without a tokenizer."""
        if state.numel():
            self._use(state.cpu().numpy().tobytes())
        else:
            self._tokenizer, self._cache = None, {}
