"""The results of a trade-off study as CSV, Markdown, JSON, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ldm_core import storage
from ldm_plugin_study.bench.result.table import aligned, amount
from ldm_plugin_study.study import files
from ldm_plugin_study.tradeoff.results import CellResult, Point, Results, names_of

NAME = "tradeoff"
"""The name of the files, before their endings."""


def write(results: Results, folder: str) -> list[str]:
    """Write all files to `folder`; their URLs."""
    plain, picture = results.plain(), _picture(results)
    return files.write(folder, NAME, csv=_csv(results), markdown=markdown(results), plain=plain, canvas=picture)


def lines(results: Results) -> list[str]:
    """The tables for a reader."""
    return [*_head(results), "", *aligned(_cells(results)), "", *aligned(_points(results)), "", *_said(results)]


def markdown(results: Results) -> list[str]:
    """The tables as Markdown."""
    out = [" ".join(f"{line}." for line in _head(results)), ""]
    for rows in (_cells(results), _points(results)):
        out += [*files.markdown_table(rows), ""]
    out += [f"* {line}" for line in _said(results)]
    return [*out, "", f"![Quality over time and speed]({NAME}.svg)", "", f"Protocol: {results.figure.line}"]


def _head(results: Results) -> list[str]:
    return [results.figure.head, results.budget, results.machine]


def _cells(results: Results) -> list[tuple[str, ...]]:
    names = names_of(results.cells)
    shown = [f"{name} of reconstructions" for name in names]
    rows: list[tuple[str, ...]] = [
        ("CELL", "FIRST STAGE", "FACTOR", "PARAMETERS", "TRAINING IMAGES/S", "MINUTES", *shown, results.figure.name)
    ]
    for cell in results.cells:
        stage = "none" if cell.factor == 1 else "given" if cell.given else "trained here"
        own = [f"{cell.reconstruction[name]:.4g}" if name in cell.reconstruction else "" for name in names]
        end = cell.last[-1]
        numbers = (str(cell.factor), amount(cell.parameters), f"{cell.training_rate:.4g}", f"{cell.minutes(end):.3g}")
        rows.append((cell.name, stage, *numbers, *own, f"{end.quality:.4g}"))
    return rows


def _points(results: Results) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("CELL", "TRAINED", "MINUTES", "SAMPLER STEPS", "IMAGES/S", results.figure.name, "95 %")
    ]
    for cell in results.cells:
        for p in cell.points:
            bounds = f"{p.low:.4g} to {p.high:.4g}" if p.low is not None and p.high is not None else ""
            speed = f"{cell.rate(p.steps):.4g}"
            numbers = (f"{cell.minutes(p):.3g}", str(p.steps), speed, f"{p.quality:.4g}", bounds)
            rows.append((cell.name, str(p.trained), *numbers))
    return rows


def _said(results: Results) -> list[str]:
    best, end = results.best(), results.best().last[-1]
    out = [f"best samples: {best.name}, {end.quality:.4g} at {end.steps} steps, {best.rate(end.steps):.4g} images/s"]
    if found := results.best_reconstruction():
        name, cell = found
        out.append(f"best reconstructions: {cell.name}, {name} {cell.reconstruction[name]:.4g}")
    return out


def _csv(results: Results) -> Iterator[Sequence[object]]:
    names = names_of(results.cells)
    head = ("cell", "factor", "first_stage", "parameters", "training_images_per_second", "trained_steps", "minutes")
    yield [*head, "sampler_steps", "images_per_second", results.figure.name, "low", "high", *names]
    for cell in results.cells:
        own = [cell.name, cell.factor, storage.shown(cell.given), cell.parameters, cell.training_rate]
        values = [cell.reconstruction.get(name) for name in names]
        for p in cell.points:
            row = [p.trained, cell.minutes(p), p.steps, cell.rate(p.steps), p.quality, p.low, p.high]
            yield [*own, *row, *values]


def _picture(results: Results) -> Any:
    """Quality over the training's time, over the sampling's speed, and beside reconstruction."""
    canvas = files.canvas(15, 4.6)
    over_time, over_speed, beside = canvas.subplots(1, 3)
    for colour, cell in _coloured(results):
        most = cell.last[-1].steps
        _line(over_time, cell, [p for p in cell.points if p.steps == most], cell.minutes, colour)
        _line(over_speed, cell, cell.last, cell.speed, colour)
        for p in cell.last:
            over_speed.annotate(
                str(p.steps), (cell.speed(p), p.quality), textcoords="offset points", xytext=(4, 4), fontsize=7
            )
    over_time.set_xlabel(f"minutes of training, {results.cells[0].last[-1].steps} steps of the sampler")
    over_speed.set_xlabel("images/s after the whole training (numbers: sampler steps)")
    over_speed.set_xscale("log")
    for axes in (over_time, over_speed):
        axes.set_ylabel(f"{results.figure.name}, {results.figure.better} is better")
        if _wide(results):
            axes.set_yscale("log")
        if results.figure.floor is not None:
            axes.axhline(results.figure.floor, color="0.5", linestyle=":", label="halves of the reference")
        axes.legend(fontsize=7)
    _beside(beside, results)
    return canvas


def _coloured(results: Results) -> Iterator[tuple[str, CellResult]]:
    """Each cell with its colour, the same in all panels."""
    return ((f"C{number}", cell) for number, cell in enumerate(results.cells))


def _wide(results: Results) -> bool:
    """True if the figures span more than a factor of 4, so that an even scale hides the differences of the best."""
    values = [p.quality for cell in results.cells for p in cell.points]
    return min(values) > 0 and (results.figure.floor or 1) > 0 and max(values) > 4 * min(values)


def _line(axes: Any, cell: CellResult, points: Sequence[Point], place: Callable[[Point], float], colour: str) -> None:
    ordered = sorted(points, key=place)
    axes.plot(
        [place(p) for p in ordered],
        [p.quality for p in ordered],
        marker="o",
        markersize=4,
        label=cell.name,
        color=colour,
    )
    spans = [(place(p), p.low, p.high) for p in ordered if p.low is not None and p.high is not None]
    axes.vlines(
        [x for x, _, _ in spans], [low for _, low, _ in spans], [high for _, _, high in spans], colour, linewidth=0.8
    )


def _beside(axes: Any, results: Results) -> None:
    found = results.best_reconstruction()
    if found is None:
        axes.set_axis_off()
        return
    name = found[0]
    for colour, cell in _coloured(results):
        if name in cell.reconstruction:
            x, y = cell.reconstruction[name], cell.last[-1].quality
            axes.plot([x], [y], marker="o", color=colour)
            axes.annotate(cell.name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set_xlabel(f"{name} of reconstructions, {'higher' if results.reconstructed[name] else 'lower'} is better")
    axes.set_ylabel(f"{results.figure.name} of samples")
