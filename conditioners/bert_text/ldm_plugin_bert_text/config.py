"""The text conditioner's configuration and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import KeyForm, Site
from ldm_core.nn.transformer_config import TokenTransformerConfig


@attrs.frozen(kw_only=True)
class TextConfig(TokenTransformerConfig):
    """A transformer encoder over the tokens of a caption; its vectors condition by cross-attention.

    The defaults have the size of the 1.45 B text-to-image model (Rombach et al. 2022, arXiv 2112.10752, section 3.3).
    """

    length: int = attrs.field(
        default=77, metadata={"help": "tokens of a caption, start and end included; shorter ones are padded"}
    )
    tokenizer: str = attrs.field(
        default="",
        metadata={
            "help": "path or URL of a sentencepiece model or of a BERT vocab.txt; empty: one is trained on captions",
            "sha256": "tokenizer_sha256",
            "place": True,
        },
    )
    tokenizer_sha256: str = attrs.field(default="", metadata={"help": "hash of that file; filled in"})
    spare_tokens: int = attrs.field(
        # A learned concept needs an id that no caption uses (textual inversion).
        default=16,
        metadata={"help": "rows of the token table that a tokenizer trained here leaves free"},
    )
    lowercase: bool = attrs.field(default=True, metadata={"help": "tell no upper case from lower case"})
    token_dropout: float = field(
        0.0,
        "share of each caption's tokens to leave out in training, drawn anew each time",
        minimum=0,
        maximum=0.9,
        since="0.2",
    )
    positions: bool = field(True, "tell places in the caption apart; false with layers=0: a bag of words", since="0.2")
    key: str = attrs.field(default="caption", metadata={"help": "which key of a batch holds the text"})
    mask: bool = attrs.field(
        # Published models attend to the padding too.
        default=False,
        metadata={"help": "hide padding from the encoder and from the denoiser"},
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the text."""
        return (self.key,)

    @property
    def least_layers(self) -> int:
        """None: the vectors of the tokens themselves condition."""
        return 0

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The length of the text."""
        return {self.key: KeyForm(f"a text of up to {self.length - 2} tokens", "a red circle")}

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        from ldm_core import storage  # here, as every listing imports this module

        yield from super().check(site)
        if self.tokenizer and not storage.exists(self.tokenizer):
            where = storage.shown(self.tokenizer)
            yield f"tokenizer: no file {where}; give a sentencepiece model or a BERT vocab.txt, or leave it out"
        if self.length < 3:
            yield f"length is {self.length}; start, end and one token of text need 3"
        if self.spare_tokens < 0:
            yield f"spare_tokens is {self.spare_tokens}; set 0 or more"
        elif self.vocab_size - self.spare_tokens < 8:
            yield (
                f"vocab_size {self.vocab_size} leaves {self.vocab_size - self.spare_tokens} tokens beside "
                f"spare_tokens {self.spare_tokens}; raise vocab_size"
            )


PRESETS: Mapping[str, TextConfig] = {
    # 1.45 B model on kl_f8; its captions were cut into the 30,522 word pieces of bert-base-uncased
    "text": TextConfig(logits=True, spare_tokens=0),
    # Conceptual Captions on vq_f4
    "text_small": TextConfig(width=640, logits=True, spare_tokens=0),
}
"""The paper's sizes by preset name, with the vocabulary head of their published weights."""
