"""The embedding conditioner's configuration and a published size. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, DataInfo, KeyForm, LatentSpec, Site


@attrs.frozen(kw_only=True)
class EmbeddingConfig(ConditionerConfig):
    """Vectors made beforehand by some other model, one or several an example, handed on as they are."""

    width: int = attrs.field(default=0, metadata={"help": "width of the vectors; 0: as wide as the data's"})
    to: Literal["crossattn", "vector"] = attrs.field(
        default="crossattn",
        metadata={"help": "crossattn: as tokens; vector: one an example, beside the noise level"},
    )
    mask: bool = attrs.field(
        default=False, metadata={"help": "let numbers of vectors differ, with a mask over what fills them up"}
    )
    normalize: bool = attrs.field(default=False, metadata={"help": "divide each vector by its length"})
    null: Literal["zeros", "learned"] = attrs.field(
        default="zeros", metadata={"help": "what stands for 'no condition': zeros, or one learned vector"}
    )
    key: str = attrs.field(default="embedding", metadata={"help": "which key of a batch holds the vectors"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the vectors."""
        return (self.key,)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """`width` on the one part written to, whatever the latents."""
        return CondSpec(crossattn=self.width) if self.to == "crossattn" else CondSpec(vector=self.width)

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The width of the vectors, and how many an example may have."""
        several = "" if self.to == "vector" else ", or several"
        return {self.key: KeyForm(f"a vector of {self.width} numbers{several}", [0.0] * self.width)}

    def from_data(self, info: DataInfo) -> EmbeddingConfig:
        """Take the width from the data if it is 0 and the data tells."""
        return self if self.width else attrs.evolve(self, width=info.widths.get(self.key, 0))

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible setting."""
        if self.width < 1:
            yield f"width is {self.width}, and the data does not tell how wide '{self.key}' is; set width"
        if self.mask and self.to == "vector":
            yield "mask is for several vectors an example, and to is 'vector'; drop one of them"


PRESETS: Mapping[str, EmbeddingConfig] = {
    # CLIP's vectors of a text and of retrieved pictures, for 768 x 768 pixels on kl_f16
    "embedding_rdm": EmbeddingConfig(width=768, normalize=True),
}
"""Published sizes."""
