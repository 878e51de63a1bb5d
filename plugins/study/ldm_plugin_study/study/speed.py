"""The seconds an image of each cell's sampling, decoded, measured in rounds that alternate the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch

from ldm_core.sampling.pipeline import Pipeline
from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.gauge.rounds import alternate
from ldm_plugin_study.bench.measure import Measured
from ldm_plugin_study.bench.result.choice import Choice


class Timed(Protocol):
    """A cell of a study, as it is sampled."""

    @property
    def name(self) -> str:
        """A name for messages."""

    @property
    def steps(self) -> int | None:
        """Steps of the sampler; None: the recipe's."""

    @property
    def settings(self) -> Sequence[str]:
        """Settings of the sampling."""


C = TypeVar("C", bound=Timed)
T = TypeVar("T")


def seconds(
    what: Measured, cells: Sequence[C], choice: Choice, say: Callable[[str], None]
) -> Mapping[C, tuple[float, ...]]:
    """Time the sampling of a batch in every cell: seconds an image, one a round of `choice`."""
    return timed(dict(cases(what, cells)), what.device, choice, say)


def cases(what: Measured, cells: Sequence[C]) -> list[tuple[Case, C]]:
    """The calls that sample a batch in every cell of one model."""
    pipeline = Pipeline.load(what.weights, device=str(what.device), catalog=what.catalog)
    inputs = inputs_of(what, pipeline)
    return [(case_of(pipeline, cell, inputs, what.batch), cell) for cell in cells]


def inputs_of(what: Measured, pipeline: Pipeline) -> Any:
    """The inputs of a timed batch: those of the first examples; None for a model without."""
    if not pipeline.reads:
        return None
    return [{key: row[key] for key in pipeline.reads} for row in what.subject().examples.first(what.batch)]


def timed(
    made: Mapping[Case, T], device: torch.device, choice: Choice, say: Callable[[str], None]
) -> dict[T, tuple[float, ...]]:
    """Time the calls of one model or several: seconds an image, one a round of `choice`, by what each call is of."""
    tell = lambda number: say(f"speed, round {number + 1} of {choice.rounds}")  # noqa: E731
    taken = alternate(list(made), choice, device, tell)
    return {made[case]: tuple(s / case.amount for s in values) for case, values in taken.items()}


def case_of(pipeline: Pipeline, cell: Timed, inputs: Any, batch: int) -> Case:
    """The call that samples a batch in one cell."""
    own = pipeline.with_settings(cell.settings)

    def call() -> object:
        return own.sample(inputs=inputs, images=batch, steps=cell.steps, seed=0, batch=batch)

    return Case(component=cell.name, precision="fp32", amount=batch, call=call, computes=False)
