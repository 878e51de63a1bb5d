"""The label-map conditioner's configuration and the size of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, DataInfo, KeyForm, LatentSpec, Site


@attrs.frozen(kw_only=True)
class SemanticMapConfig(ConditionerConfig):
    """A label map, averaged over each latent cell and mapped to a few channels, concatenated to the latents."""

    classes: int = attrs.field(default=0, metadata={"help": "number of classes; 0: as many as the data has"})
    channels: int = attrs.field(default=3, metadata={"help": "channels that the map becomes"})
    key: str = attrs.field(default="segmentation", metadata={"help": "which key of a batch holds the label maps"})
    unlabeled: int = attrs.field(
        default=255,
        metadata={"help": "the label of pixels without one; it belongs to no class and maps to zeros"},
    )
    droppable: bool = attrs.field(
        default=True, metadata={"help": "let dropout and guidance replace the map by one without labels"}
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the label maps."""
        return (self.key,)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """`channels` concatenated to the latents."""
        return CondSpec(concat=self.channels)

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The labels of a map."""
        words = f"the number of each pixel's class, 0 to {self.classes - 1}"
        example = [[0, 0], [0, min(1, self.classes - 1)]]
        return {self.key: KeyForm(f"{words}, or {self.unlabeled} for none", example, "map")}

    def from_data(self, info: DataInfo) -> SemanticMapConfig:
        """Take the number of classes from the data if it is 0 and the data tells."""
        known = info.classes.get(self.key, 0)
        return self if self.classes else attrs.evolve(self, classes=known)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        if self.classes < 1:
            yield f"classes is {self.classes}, and the data does not tell how many '{self.key}' has; set classes"
        if self.channels < 1:
            yield f"channels is {self.channels}; set 1 or more"
        if len(site.size) != 2:
            yield f"label maps have 2 axes (height, width); the images have {len(site.size)}"


PRESETS: Mapping[str, SemanticMapConfig] = {
    # landscapes, 182 labels, on vq_f4
    "semantic_map_landscapes": SemanticMapConfig(classes=182),
}
"""The paper's size by preset name."""
