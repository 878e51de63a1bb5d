"""The results of a study of efficiency as CSV, Markdown, JSON, PNG and SVG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core import storage
from ldm_plugin_study.bench.result.table import aligned, amount
from ldm_plugin_study.study.writing import saved
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
    texts: dict[str, str | bytes] = {
        "csv": _csv(made),
        "md": "\n".join(markdown(made)) + "\n",
        "json": json.dumps(made.plain(), indent=2) + "\n",
        **_pictures(made),
    }
    urls = {ending: storage.join(folder, f"{NAME}.{ending}") for ending in texts}
    for ending, content in texts.items():
        storage.atomic_write(urls[ending], content)
    return list(urls.values())


def lines(made: Efficiency) -> list[str]:
    """The table for a reader."""
    return [*_head(made), "", *aligned(_cells(made))]


def markdown(made: Efficiency) -> list[str]:
    """The table as Markdown."""
    head, *rows = _cells(made)
    out = [" ".join(f"{line}." for line in _head(made)), ""]
    out += [f"| {' | '.join(head).lower()} |", "|" + "---|" * len(head)]
    out += [f"| {' | '.join(row)} |" for row in rows]
    return [*out, "", f"![Speed and quality]({NAME}.svg)", "", f"Protocol: {made.results.figure.line}"]


def _head(made: Efficiency) -> list[str]:
    one, steps = made.results.figure, made.results.cells[0].points[0].steps
    better = "higher" if one.higher else "lower"
    floor = "" if one.floor is None else f"; halves of the reference: {one.floor:.4g}"
    about = f"{made.epochs:g} epochs, {made.results.budget}, {steps} steps of the sampler"
    return [f"{one.name} ({one.label}), {better} is better{floor}", about, made.results.machine]


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


def _csv(made: Efficiency) -> str:
    out, names = io.StringIO(), names_of(made.results.cells)
    writer = csv.writer(out, lineterminator="\n")
    head = ("cell", "factor", "parameters", "training_images_per_second", "sampling_images_per_second", "decode_bytes")
    writer.writerow([*head, *names, made.results.figure.name, "low", "high"])
    for cell in made.results.cells:
        size, p = made.memory[cell.name], cell.points[0]
        own = [cell.name, cell.factor, cell.parameters, cell.training_rate, made.rate(cell)]
        values = [cell.reconstruction.get(name, "") for name in names]
        bounds = ["" if bound is None else bound for bound in (p.low, p.high)]
        writer.writerow([*own, "" if size is None else size, *values, p.quality, *bounds])
    return out.getvalue()


def _pictures(made: Efficiency) -> dict[str, bytes]:
    """Bars of speed in training and sampling, of memory and of quality."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(14, 4), layout="constrained")
    FigureCanvasAgg(canvas)
    cells, one = made.results.cells, made.results.figure
    panels: dict[str, list[float]] = {
        "training, images/s": [cell.training_rate for cell in cells],
        "sampling, images/s": [made.rate(cell) for cell in cells],
        "memory of decoding, MB": [(made.memory[cell.name] or 0) / 1e6 for cell in cells],
        f"{one.name}, {'higher' if one.higher else 'lower'} is better": [cell.points[0].quality for cell in cells],
    }
    for axes, (title, values) in zip(canvas.subplots(1, len(panels)), panels.items(), strict=True):
        axes.bar(range(len(cells)), values, color="0.4")
        axes.set_xticks(range(len(cells)), [cell.name for cell in cells], rotation=45, ha="right")
        axes.set_title(title, fontsize=9)
    return saved(canvas)
