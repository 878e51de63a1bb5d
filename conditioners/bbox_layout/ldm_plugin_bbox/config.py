"""The layout conditioner's configuration and the size of the paper. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, DataInfo, LatentSpec, Site


@attrs.frozen(kw_only=True)
class LayoutConfig(ConditionerConfig):
    """Boxes with classes as a sequence of tokens through a transformer encoder; conditions by cross-attention.

    An object is three tokens: its class and the grid cells of its top-left and bottom-right corners. Classes and
    cells share one vocabulary, told apart by position.
    """

    classes: int = attrs.field(
        default=0,
        metadata={"help": "number of classes; 0: as many as the data has, or any below the vocabulary"},
    )
    objects: int = attrs.field(
        default=30, metadata={"help": "objects of a layout; of more, the largest are kept, fewer are padded"}
    )
    vocab_size: int = attrs.field(
        default=8192,
        metadata={"help": "tokens; corners lie on a grid of side floor(sqrt(vocab_size)), the last is 'none'"},
    )
    width: int = attrs.field(default=512, metadata={"help": "width of the vectors handed to cross-attention"})
    layers: int = attrs.field(default=16, metadata={"help": "transformer layers"})
    heads: int = attrs.field(default=8, metadata={"help": "attention heads"})
    head_width: int = attrs.field(
        default=64, metadata={"help": "width of a head; the attention's inner width is heads x head_width"}
    )
    boxes: str = attrs.field(default="boxes", metadata={"help": "which key of a batch holds the boxes"})
    labels: str = attrs.field(default="box_labels", metadata={"help": "which key of a batch holds their classes"})
    encode_crop: bool = attrs.field(
        default=False, metadata={"help": "end the sequence with the crop rectangle's two corners"}
    )
    crop: str = attrs.field(
        default="",
        metadata={"help": "with encode_crop: which key holds the crop (x, y, w, h); empty: the full image"},
    )
    logits: bool = attrs.field(
        # It gets no gradient, which data-parallel training dislikes.
        default=False,
        metadata={"help": "carry the unused vocabulary head that published weights hold"},
    )
    embedding_std: float = attrs.field(
        default=0.02, validator=attrs.validators.gt(0), metadata={"help": "std of the fresh token and position tables"}
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Boxes, their classes, and the crop if one is read."""
        return (self.boxes, self.labels, *((self.crop,) if self.encode_crop and self.crop else ()))

    @property
    def length(self) -> int:
        """Tokens of a layout: three an object, and two for the crop."""
        return 3 * self.objects + 2 * self.encode_crop

    @property
    def grid(self) -> int:
        """Cells along each side of the corners' grid."""
        return math.isqrt(self.vocab_size)

    @property
    def none_token(self) -> int:
        """The token of an absent object."""
        return self.vocab_size - 1

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Cross-attention of `width`, whatever the latents."""
        return CondSpec(crossattn=self.width)

    def from_data(self, info: DataInfo) -> LayoutConfig:
        """Take the number of classes from the data if it is 0 and the data tells."""
        known = info.classes.get(self.labels, 0)
        return self if self.classes else attrs.evolve(self, classes=known)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        for name in ("objects", "width", "layers", "heads", "head_width"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; set 1 or more"
        if self.vocab_size < 5:
            yield f"vocab_size is {self.vocab_size}; a grid of two cells a side and 'none' need 5"
        if not 0 <= self.classes < max(self.vocab_size, 1):
            room = self.vocab_size - 1
            yield f"classes is {self.classes}; vocab_size {self.vocab_size} holds {room}; raise vocab_size"


PRESETS: Mapping[str, LayoutConfig] = {
    # OpenImages, on vq_f4
    "bbox_layout": LayoutConfig(encode_crop=True, logits=True),
}
"""The paper's size by preset name, with the vocabulary head of its published weights."""
