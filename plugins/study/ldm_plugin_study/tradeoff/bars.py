"""The results of a study of efficiency as CSV, Markdown, JSON, PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_plugin_study.bench.result.table import aligned, amount
from ldm_plugin_study.study import files
from ldm_plugin_study.tradeoff.results import CellResult, Results, names_of

NAME = "efficiency"
"""The name of the files, before their endings."""


@attrs.frozen(kw_only=True)
class Efficiency:
    """The results of cells with one point each, after so many epochs; `memory`: bytes of decoding a batch, None if
    this system tells none."""

    results: Results
    epochs: float
    memory: Mapping[str, int | None]

    def rate(self, cell: CellResult) -> float:
        """Sampled images a second."""
        return cell.speed(cell.points[0])

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        found = self.results.plain()
        cells = [{**cell, "decode_bytes": self.memory[cell["name"]]} for cell in found["cells"]]
        return {**found, "epochs": self.epochs, "cells": cells}


def write(made: Efficiency, folder: str) -> list[str]:
    """Write all files to `folder`; their URLs."""
    return files.write(folder, NAME, csv=_csv(made), markdown=markdown(made), plain=made.plain(), canvas=_picture(made))


def lines(made: Efficiency) -> list[str]:
    """The table for a reader."""
    return [*_head(made), "", *aligned(_cells(made))]


def markdown(made: Efficiency) -> list[str]:
    """The table as Markdown."""
    out = [" ".join(f"{line}." for line in _head(made)), "", *files.markdown_table(_cells(made))]
    return [*out, "", f"![Speed and quality]({NAME}.svg)", "", f"Protocol: {made.results.figure.line}"]


def _head(made: Efficiency) -> list[str]:
    steps = made.results.cells[0].points[0].steps
    about = f"{made.epochs:g} epochs, {made.results.budget}, {steps} steps of the sampler"
    return [made.results.figure.head, about, made.results.machine]


def _cells(made: Efficiency) -> list[tuple[str, ...]]:
    names = names_of(made.results.cells)
    head = ("CELL", "FIRST STAGE", "PARAMETERS", "TRAINING IMAGES/S", "SAMPLING IMAGES/S", "DECODE MEMORY")
    rows: list[tuple[str, ...]] = [(*head, *names, made.results.figure.name)]
    for cell in made.results.cells:
        stage = "none" if cell.factor == 1 else "given" if cell.given else "trained here"
        size = made.memory[cell.name]
        speeds = (f"{cell.training_rate:.4g}", f"{made.rate(cell):.4g}", "" if size is None else f"{amount(size)}B")
        own = [f"{cell.reconstruction[name]:.4g}" if name in cell.reconstruction else "" for name in names]
        rows.append((cell.name, stage, amount(cell.parameters), *speeds, *own, f"{cell.points[0].quality:.4g}"))
    return rows


def _csv(made: Efficiency) -> Iterator[Sequence[object]]:
    names = names_of(made.results.cells)
    head = ("cell", "factor", "parameters", "training_images_per_second", "sampling_images_per_second", "decode_bytes")
    yield [*head, *names, made.results.figure.name, "low", "high"]
    for cell in made.results.cells:
        p = cell.points[0]
        own = [cell.name, cell.factor, cell.parameters, cell.training_rate, made.rate(cell)]
        values = [cell.reconstruction.get(name) for name in names]
        yield [*own, made.memory[cell.name], *values, p.quality, p.low, p.high]


def _picture(made: Efficiency) -> Any:
    """Bars of speed in training and sampling, of memory and of quality."""
    canvas = files.canvas(14, 4)
    cells, one = made.results.cells, made.results.figure
    panels: dict[str, list[float]] = {
        "training, images/s": [cell.training_rate for cell in cells],
        "sampling, images/s": [made.rate(cell) for cell in cells],
        "memory of decoding, MB": [(made.memory[cell.name] or 0) / 1e6 for cell in cells],
        f"{one.name}, {one.better} is better": [cell.points[0].quality for cell in cells],
    }
    for axes, (title, values) in zip(canvas.subplots(1, len(panels)), panels.items(), strict=True):
        axes.bar(range(len(cells)), values, color="0.4")
        axes.set_xticks(range(len(cells)), [cell.name for cell in cells], rotation=45, ha="right")
        axes.set_title(title, fontsize=9)
    return canvas
