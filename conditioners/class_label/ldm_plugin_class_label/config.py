"""The class conditioner's configuration and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, DataInfo, KeyForm, LatentSpec, Site


@attrs.frozen(kw_only=True)
class ClassLabelConfig(ConditionerConfig):
    """One learned vector a class, handed to cross-attention as a sequence of length 1."""

    classes: int = attrs.field(default=0, metadata={"help": "number of classes; 0: as many as the data has"})
    width: int = attrs.field(default=512, metadata={"help": "width of the vectors"})
    key: str = attrs.field(default="class_label", metadata={"help": "which key of a batch holds the labels"})
    null_class: bool = attrs.field(
        default=True,
        metadata={"help": "one more vector for 'no class'; without it guidance cannot drop the label"},
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the labels."""
        return (self.key,)

    @property
    def droppable(self) -> bool:
        """True if the null differs from the condition, so that dropout and guidance act."""
        return self.null_class

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """The number of a class."""
        return {self.key: KeyForm("" if self.key == "class_label" else f"a number, 0 to {self.classes - 1}", 0)}

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Cross-attention of `width`, whatever the latents."""
        return CondSpec(crossattn=self.width)

    def from_data(self, info: DataInfo) -> ClassLabelConfig:
        """Take the number of classes from the data if it is 0 and the data tells."""
        known = info.classes.get(self.key, 0)
        return self if self.classes else attrs.evolve(self, classes=known)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        if self.classes < 1:
            yield f"classes is {self.classes}, and the data does not tell how many '{self.key}' has; set classes"
        if self.width < 1:
            yield f"width is {self.width}; set 1 or more"


PRESETS: Mapping[str, ClassLabelConfig] = {
    # ImageNet, on vq_f4: 1,000 classes and a null that was trained by dropout
    "class_imagenet": ClassLabelConfig(classes=1000),
    # ImageNet, on vq_f8: no null
    "class_imagenet_f8": ClassLabelConfig(classes=1000, null_class=False),
}
"""The paper's sizes by preset name."""
