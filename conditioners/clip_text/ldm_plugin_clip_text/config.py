"""The CLIP text conditioner's configuration and the sizes of Stable Diffusion. Imports no torch, no transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, KeyForm, LatentSpec, Site

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
"""Files read in a tokenizer's folder: the first, or else the other two."""


@attrs.frozen(kw_only=True)
class ClipTextConfig(ConditionerConfig):
    """CLIP's text encoder; the vectors of its last layer, normalised, condition by cross-attention.

    The defaults are those of Stable Diffusion 1 (Rombach et al. 2022; Radford et al. 2021, arXiv 2103.00020).
    """

    trained_by_default: ClassVar[bool] = False  # it comes trained, and the models that use it leave it as it is

    vocab_size: int = attrs.field(default=49408, metadata={"help": "rows of the token table"})
    width: int = attrs.field(default=768, metadata={"help": "width of the vectors handed to cross-attention"})
    layers: int = attrs.field(default=12, metadata={"help": "transformer layers"})
    heads: int = attrs.field(default=12, metadata={"help": "attention heads; they divide the width"})
    inner: int = attrs.field(default=3072, metadata={"help": "inner width of the feed-forward layers"})
    length: int = attrs.field(
        default=77, metadata={"help": "tokens of a caption, start and end included; shorter ones are padded"}
    )
    activation: Literal["quick_gelu", "gelu"] = attrs.field(
        default="quick_gelu", metadata={"help": "quick_gelu: x sigmoid(1.702 x), OpenAI's; gelu: OpenCLIP's"}
    )
    skip: int = attrs.field(
        default=0, metadata={"help": "last layers that are left out; 1: the vectors of the last but one"}
    )
    padding: str = attrs.field(
        default="<|endoftext|>", metadata={"help": "the token that fills a caption up; Stable Diffusion 2: '!'"}
    )
    tokenizer: str = attrs.field(
        default="",
        metadata={
            "help": "tokenizer.json, or a folder with it or with vocab.json and merges.txt, by path or URL; trained "
            "weights bring theirs",
            "sha256": "tokenizer_sha256",
            "files": TOKENIZER_FILES,
            "place": True,
        },
    )
    tokenizer_sha256: str = attrs.field(default="", metadata={"help": "hash of those files; filled in"})
    weights: str = attrs.field(
        default="",
        metadata={
            "help": "path or URL of a CLIPTextModel's weights (safetensors) to start training a model from",
            "sha256": "weights_sha256",
            "place": True,
        },
    )
    weights_sha256: str = attrs.field(default="", metadata={"help": "hash of that file; filled in"})
    key: str = attrs.field(default="caption", metadata={"help": "which key of a batch holds the text"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the text."""
        return (self.key,)

    @property
    def pretrained(self) -> bool:
        """True if fresh weights are trained ones."""
        return bool(self.weights)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Cross-attention of `width`, whatever the latents."""
        return CondSpec(crossattn=self.width)

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The length of the text."""
        return {self.key: KeyForm(f"a text of up to {self.length - 2} tokens", "a red circle")}

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size and each missing file."""
        from ldm_core import storage  # here, as every listing imports this module

        for name in ("vocab_size", "width", "layers", "heads", "inner"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; set 1 or more"
        if self.heads > 0 and self.width % self.heads:
            yield f"width {self.width} does not go into {self.heads} heads; set a multiple"
        if not 0 <= self.skip < max(self.layers, 1):
            yield f"skip is {self.skip} of {self.layers} layers; set 0 to {self.layers - 1}"
        if self.length < 3:
            yield f"length is {self.length}; start, end and one token of text need 3"
        if self.tokenizer:
            yield from _tokenizer_problems(self.tokenizer)
        if self.weights and not storage.exists(self.weights):
            yield f"weights: no file {storage.shown(self.weights)}; give a CLIPTextModel's safetensors file"


def _tokenizer_problems(url: str) -> Iterator[str]:
    from ldm_core import storage

    shown = storage.shown(url)
    if storage.is_folder(url):
        have = {name for name in TOKENIZER_FILES if storage.exists(storage.join(url, name))}
        if not ("tokenizer.json" in have or {"vocab.json", "merges.txt"} <= have):
            yield f"tokenizer: {shown} holds neither tokenizer.json nor vocab.json with merges.txt"
    elif not storage.exists(url):
        yield f"tokenizer: no file or folder {shown}; give tokenizer.json, or a folder with vocab.json and merges.txt"


PRESETS: Mapping[str, ClipTextConfig] = {
    # OpenAI's ViT-L/14
    "clip_text_sd1": ClipTextConfig(),
    # OpenCLIP's ViT-H/14: the last of its 24 layers is not used, and every published conversion leaves it out
    "clip_text_sd2": ClipTextConfig(width=1024, layers=23, heads=16, inner=4096, activation="gelu", padding="!"),
}
"""The text encoders of Stable Diffusion 1 and 2."""
