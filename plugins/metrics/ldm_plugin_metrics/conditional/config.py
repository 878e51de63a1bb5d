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
