"""Options of the metrics of samples and their inputs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import MetricConfig, Site
from ldm_plugin_metrics.networks.config import CLIP, INCEPTION, PIXELS, NetworkConfig
from ldm_plugin_metrics.weights import missing


@attrs.frozen(kw_only=True)
class ClassAccuracyConfig(NetworkConfig):
    """The share of pictures in which a given classifier sees the class that was asked for."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("class_accuracy", "class_accuracy_top5")

    network: str = field("", "the name of the classifier's timm network")
    classes: int = field(0, "the number of its outputs; 0 = as many as its weights have", minimum=0, maximum=1 << 20)
    outputs: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "the output for each class of the data, in their order; none = the same order"}
    )
    label: str = field("class_label", "the key of the class in the examples")

    @property
    def reads(self) -> tuple[str, ...]:
        """The class."""
        return (self.label,)

    def check(self, site: Site) -> Iterator[str]:
        """Settings of no classifier."""
        yield from super().check(site)
        if self.network in (INCEPTION, CLIP, PIXELS):
            yield f"network: {self.network} is no classifier here; name one of timm's, with weights and its head"
        if self.layer:
            yield "layer: a classifier's outputs are compared; leave it out"
        if self.random_seed is not None and not self.classes:
            yield "classes: random weights have no number of outputs; set one"


@attrs.frozen(kw_only=True)
class TextScoreConfig(MetricConfig):
    """The cosine of CLIP's embeddings of a picture and of its text."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("text_score",)

    weights: str = field(
        "", "folder of a CLIP model and its tokenizer, as transformers saves it (path or URL)", place=True
    )
    text: str = field("caption", "the key of the text in the examples")
    subject: Literal["samples", "reconstructions", "data"] = field("samples", "the pictures that are measured")

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def check(self, site: Site) -> Iterator[str]:
        """A line for missing weights."""
        if problem := missing(self.weights, "the folder of a CLIP model of transformers"):
            yield f"weights: {problem}"


@attrs.frozen(kw_only=True)
class BoxFidelityConfig(MetricConfig):
    """Boxes of a detector beside those that were asked for: average precision and overlap."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("box_ap", "box_ap50", "box_iou")

    boxes: str = field("boxes", "the key of the boxes in the examples, x, y, w, h in [0, 1]")
    labels: str = field("box_labels", "the key of their classes")
    most: int = field(
        100, "detections of a picture that count, the surest; and the most boxes", minimum=1, maximum=10_000
    )
    confidence: float = field(0.5, "the least score of a detection that box_iou takes", minimum=0)

    @property
    def reads(self) -> tuple[str, ...]:
        """The boxes and their classes."""
        return (self.boxes, self.labels)


@attrs.frozen(kw_only=True)
class BoxScoreConfig(BoxFidelityConfig):
    """Boxes of a detector, from its file of results, beside those that were asked for."""

    detections: str = field("", "path or URL of a detector's results in COCO's format", place=True)
    categories: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "the detector's category of each class of the data; none = the same numbers"}
    )

    def check(self, site: Site) -> Iterator[str]:
        """A line for a missing file, and one for a category that stands for two classes."""
        if problem := missing(self.detections, "a detector's results in COCO's format"):
            yield f"detections: {problem}"
        if len({*self.categories}) < len(self.categories):
            yield "categories: one stands for two classes; give each class its own"


@attrs.frozen(kw_only=True)
class MapFidelityConfig(MetricConfig):
    """Label maps of a segmenter beside those that were asked for: overlap and accuracy."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("label_map_iou", "label_map_accuracy")

    map: str = field("segmentation", "the key of the label map in the examples")
    classes: int = field(0, "the number of classes", minimum=0, maximum=1 << 16)
    ignored: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "labels of the map that was asked for whose pixels are left out, 255 for one"}
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The label map."""
        return (self.map,)

    def check(self, site: Site) -> Iterator[str]:
        """A line for a missing number of classes."""
        if not self.classes:
            yield "classes: the number of classes is missing"


@attrs.frozen(kw_only=True)
class LabelMapConfig(MapFidelityConfig):
    """Label maps of a segmenter, from its files, beside those that were asked for."""

    maps: str = field("", "folder (path or URL) of PNG files of class numbers: 00012.png of picture 12", place=True)

    def check(self, site: Site) -> Iterator[str]:
        """Lines for a missing folder and number of classes."""
        yield from super().check(site)
        if not self.maps:
            yield "maps: path or URL is missing (a folder of a segmenter's label maps)"
