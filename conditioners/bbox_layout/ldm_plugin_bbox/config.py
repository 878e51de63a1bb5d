"""The layout conditioner's configuration and the size of the paper. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import CondSpec, DataInfo, KeyForm, LatentSpec, Site
from ldm_core.nn.transformer_config import TokenTransformerConfig


@attrs.frozen(kw_only=True)
class LayoutConfig(TokenTransformerConfig):
    """Boxes with classes as a sequence of tokens through a transformer encoder; conditions by cross-attention, and
    on request by a map of the boxes.

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
    boxes: str = attrs.field(default="boxes", metadata={"help": "which key of a batch holds the boxes"})
    labels: str = attrs.field(default="box_labels", metadata={"help": "which key of a batch holds their classes"})
    map_channels: int = attrs.field(
        default=0,
        validator=attrs.validators.ge(0),
        metadata={
            "help": "channels, concatenated to the latents, of the boxes drawn onto the latents' grid, beside the "
            "tokens: places are learned sooner; 0: tokens alone, as in the paper",
            "since": "0.2",
        },
    )
    encode_crop: bool = attrs.field(
        default=False, metadata={"help": "end the sequence with the crop rectangle's two corners"}
    )
    crop: str = attrs.field(
        default="",
        metadata={"help": "with encode_crop: which key holds the crop (x, y, w, h); empty: the full image"},
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

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The number of boxes, and the crop's form."""
        crop = {self.crop: KeyForm("one box [x, y, w, h]", [0, 0, 1, 1])} if self.crop in self.reads else {}
        boxes = KeyForm(f"up to {self.objects}", [[0.1, 0.2, 0.4, 0.5]], "boxes")
        return {self.boxes: boxes, self.labels: KeyForm("", [0], "per_box"), **crop}

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Cross-attention of `width`, and `map_channels` channels concatenated to the latents."""
        return CondSpec(crossattn=self.width, concat=self.map_channels)

    def from_data(self, info: DataInfo) -> LayoutConfig:
        """Take the number of classes from the data if it is 0 and the data tells."""
        known = info.classes.get(self.labels, 0)
        return self if self.classes else attrs.evolve(self, classes=known)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        yield from super().check(site)
        if self.objects < 1:
            yield f"objects is {self.objects}; set 1 or more"
        if self.vocab_size < 5:
            yield f"vocab_size is {self.vocab_size}; a grid of two cells a side and 'none' need 5"
        if self.map_channels and len(site.size) != 2:
            yield f"map_channels is {self.map_channels}: boxes have 2 axes, the images {len(site.size)}; set it to 0"
        if not 0 <= self.classes < max(self.vocab_size, 1):
            room = self.vocab_size - 1
            yield f"classes is {self.classes}; vocab_size {self.vocab_size} holds {room}; raise vocab_size"


PRESETS: Mapping[str, LayoutConfig] = {
    # OpenImages, on vq_f4
    "bbox_layout": LayoutConfig(encode_crop=True, logits=True),
}
"""The paper's size by preset name, with the vocabulary head of its published weights."""
