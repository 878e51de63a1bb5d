"""The promises of a metric's rows: pictures to measure, and what ``measure`` makes of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_core.contracts import Metric, MetricAnswers, MetricConfig, Pictures, configs
from ldm_core.testing import batches
from ldm_core.testing.base import same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite


class MeasuredRows(TensorSuite):
    """The part of a metric's suite about its rows."""

    kind = "metric"
    protocol: ClassVar[type] = Metric
    count: ClassVar[int] = 12
    pipeline: ClassVar[Any] = None
    """The model of a metric that needs one."""

    def examples(self, rows: Sequence[int], size: tuple[int, ...]) -> Mapping[str, Any]:
        """The collated keys of examples."""
        return batches.standard_batch(rows, size, self.image_channels)

    def pictures(self, rows: Sequence[int], size: tuple[int, ...]) -> Pictures:
        """The pictures `rows`: smooth waves; of reconstructions, the waves are the originals of noisy ones."""
        clean = batches.images(rows, size, self.image_channels)
        answers = configs.of(MetricConfig, self.config())
        noisy = clean + 0.1 * batches.normal(rows, clean.shape[1:], "noise")
        reads = {*answers.reads, *(self.pipeline.reads if answers.needs_pipeline and self.pipeline else ())}
        examples = {key: self.examples(rows, size)[key] for key in reads}
        shown, originals = (noisy, _levels(clean)) if answers.subject == "reconstructions" else (clean, None)
        return Pictures(_levels(shown), tuple(rows), examples, originals, self.pipeline)

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> Any:
        """The tensors of some pictures."""
        given = self.pictures(rows, size)
        originals = {} if given.originals is None else {"originals": given.originals}
        return {"images": given.images, "places": given.places, "examples": dict(given.examples), **originals}

    def run(self, component: Metric, inputs: Any) -> dict[str, Tensor]:
        """The rows, as tensors of the inputs' device."""
        rows = component.measure(Pictures(**inputs, pipeline=self.pipeline))
        assert isinstance(rows, Mapping), f"measure gives {type(rows).__name__}, not a mapping of arrays"
        loose = [name for name, value in rows.items() if not isinstance(value, np.ndarray)]
        assert not loose, f"of measure, {', '.join(loose)} are no numpy arrays"
        return {name: torch.from_numpy(np.array(value)).to(inputs["images"].device) for name, value in rows.items()}

    def rows(self, start: int = 0, count: int | None = None) -> dict[str, NDArray[Any]]:
        """The rows of `count` pictures, from place `start` on."""
        metric = self.build()
        wanted = range(start, start + (count or self.enough(metric)))
        blocks = [wanted[i : i + 16] for i in range(0, len(wanted), 16)]
        with torch.no_grad():
            made = [metric.measure(self.pictures(block, self.sizes[0])) for block in blocks]
        return {name: np.concatenate([np.asarray(each[name]) for each in made]) for name in made[0]}

    def enough(self, metric: Metric) -> int:
        """The number of pictures a side."""
        return max(self.count, configs.of(MetricAnswers, metric).least)

    @Rule(
        Metric,
        "Metrics with equal sources have equal rows",
        "name in `source` the network, the hash of its weights, the layer, the resize and each setting of them",
    )
    def test_the_source_is_one_line(self) -> None:
        """`source` is a line of text, equal for metrics that are built equally."""
        first, second = self.build(seed=0), self.build(seed=1)
        assert isinstance(first.source, str), f"source is {type(first.source).__name__}, not text"
        assert len(first.source.splitlines()) == 1, f"source is {first.source!r}, not one line"
        assert first.source == second.source, f"built twice, the source is {first.source!r} and {second.source!r}"
        size = self.sizes[0]
        one, two = (self._quietly(metric, self.inputs(range(2), size)) for metric in (first, second))
        assert same(one, two), "two metrics with equal sources have other rows: built twice, their weights differ"

    @Rule(Metric, "and it is picklable", "keep no open file, lock or function made on the spot on the metric")
    def test_is_picklable(self) -> None:
        """Its copy by pickle measures the same."""
        metric = self.build()
        copy = pickle.loads(pickle.dumps(metric))
        given = self.inputs(range(2), self.sizes[0])
        assert same(self._quietly(metric, given), self._quietly(copy, given)), "the copy has other rows"
        assert copy.source == metric.source, "the copy has another source"


def _levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
