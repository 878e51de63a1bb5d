"""The seconds an image of each cell's sampling, decoded, measured in rounds that alternate the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ldm_core.sampling.pipeline import Pipeline
from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.gauge.rounds import alternate
from ldm_plugin_study.bench.measure import Measured
from ldm_plugin_study.bench.result.choice import Choice
from ldm_plugin_study.study.cells import Cell


def seconds(
    what: Measured, cells: Sequence[Cell], choice: Choice, say: Callable[[str], None]
) -> Mapping[Cell, tuple[float, ...]]:
    """Time the sampling of a batch in every cell: seconds an image, one a round of `choice`."""
    pipeline = Pipeline.load(what.weights, device=str(what.device), catalog=what.catalog)
    rows = what.subject().examples.first(what.batch)
    inputs = [{key: row[key] for key in pipeline.reads} for row in rows] if pipeline.reads else None
    made = {_case(pipeline, cell, inputs, what.batch): cell for cell in cells}
    tell = lambda number: say(f"speed, round {number + 1} of {choice.rounds}")  # noqa: E731
    taken = alternate(list(made), choice, what.device, tell)
    return {made[case]: tuple(s / case.amount for s in values) for case, values in taken.items()}


def _case(pipeline: Pipeline, cell: Cell, inputs: Any, batch: int) -> Case:
    own = pipeline.with_settings(cell.settings)

    def call() -> object:
        return own.sample(inputs=inputs, images=batch, steps=cell.steps, seed=0, batch=batch)

    return Case(component=cell.name, precision="fp32", amount=batch, call=call, computes=False)
