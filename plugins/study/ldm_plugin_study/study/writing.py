"""The results of a study of guidance as CSV, Markdown, JSON, PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import attrs

from ldm_core import storage
from ldm_plugin_study.bench.result.table import aligned, duration
from ldm_plugin_study.study import files
from ldm_plugin_study.study.cells import Result, best_within
from ldm_plugin_study.study.quality import Figure

NAME = "guidance"
"""The name of the files, before their endings."""
_Line: TypeAlias = tuple[str, float, tuple[float, ...]]
"""Sampler, scale and interval; () = all levels."""
_STYLES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"


@attrs.frozen(kw_only=True)
class Study:
    """All results of one run, sorted by time, and the figure that measures quality."""

    run: str
    results: tuple[Result, ...]
    figure: Figure
    machine: str
    times: tuple[float, ...] = ()
    """Seconds an image to name the best cell for; none: those of the front."""

    @property
    def front(self) -> list[Result]:
        """The Pareto front, fastest first."""
        return [r for r in self.results if r.front]

    def choices(self) -> Iterator[tuple[float, Result | None]]:
        """The best cell within each time."""
        for limit in self.times or tuple(r.time for r in self.front):
            yield limit, best_within(self.results, limit, higher=self.figure.higher)

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": storage.shown(self.run),
            "quality": self.figure.plain(),
            "protocol": self.figure.line,
            "machine": self.machine,
            "cells": [r.plain() for r in self.results],
            "best": [
                {"seconds": limit, "cell": found and found.cell.name, "command": found and found.cell.line(self.run)}
                for limit, found in self.choices()
            ],
        }


def write(study: Study, folder: str) -> list[str]:
    """Write all files to `folder`; their URLs."""
    return files.write(
        folder, NAME, csv=_csv(study), markdown=markdown(study), plain=study.plain(), canvas=_picture(study)
    )


def _cells(study: Study) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("SAMPLER", "INTERVAL", "STEPS", "SCALE", study.figure.name, "95 %", "TIME", "IMAGES/S", "FRONT")
    ]
    for r in study.results:
        interval = "" if r.cell.interval is None else f"{r.cell.interval[0]:g} to {r.cell.interval[1]:g}"
        bounds = f"{r.low:.4g} to {r.high:.4g}" if r.low is not None and r.high is not None else ""
        rows.append(
            (
                *(r.cell.sampler, interval, str(r.cell.steps), f"{r.cell.scale:g}", f"{r.quality:.4g}", bounds),
                *(duration(r.time), f"{1 / r.time:.4g}", "*" if r.front else ""),
            )
        )
    return rows


def _head(study: Study) -> str:
    return f"{study.figure.head}; {study.machine}"


def lines(study: Study) -> list[str]:
    """The table and the best settings for a reader."""
    out = [_head(study), ""]
    out += [*aligned(_cells(study)), "", "The best setting for a time:"]
    for limit, found in study.choices():
        said = found.cell.line(study.run) if found else "none is so fast"
        out.append(f"  up to {duration(limit)} an image: {said}")
    return out


def markdown(study: Study) -> list[str]:
    """The table and the best settings as Markdown."""
    out = [f"{_head(study)}.", "", *files.markdown_table(_cells(study))]
    out += ["", f"![Quality over time]({NAME}.svg)", "", "The best setting for a time:", ""]
    for limit, found in study.choices():
        said = f"`{found.cell.line(study.run)}`" if found else "none is so fast"
        out.append(f"* up to {duration(limit)} an image: {said}")
    return [*out, "", f"Protocol of the fastest cell: {study.figure.line}"]


def _csv(study: Study) -> Iterator[Sequence[object]]:
    head = ("sampler", "steps", "scale", "interval_low", "interval_high", study.figure.name, "low", "high")
    yield [*head, "seconds_per_image", "images_per_second", "images", "front"]
    for r in study.results:
        own = [r.cell.sampler, r.cell.steps, r.cell.scale, *(r.cell.interval or (None, None))]
        yield [*own, r.quality, r.low, r.high, r.time, 1 / r.time, r.images, int(r.front)]


def _picture(study: Study) -> Any:
    """Quality over time, a line for each sampler, scale and interval, and the front below them."""
    canvas = files.canvas(8, 5)
    axes = canvas.subplots()
    front = study.front
    axes.plot([r.time for r in front], [r.quality for r in front], color="0.8", linewidth=6, label="Pareto front")
    for (sampler, scale, interval), results, look in _lines(study.results):
        word = f", {interval[0]:g} to {interval[1]:g}" if interval else ""
        axes.errorbar(
            [r.time for r in results],
            [r.quality for r in results],
            yerr=_bars(results),
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            label=f"{sampler}, scale {scale:g}{word}",
            **look,
        )
    if study.figure.floor is not None:
        axes.axhline(study.figure.floor, color="0.5", linestyle=":", label="halves of the reference")
    for r in front:
        axes.annotate(str(r.cell.steps), (r.time, r.quality), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xscale("log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda seconds, _: f"{seconds:g}")
    axes.set_xlabel("seconds an image (numbers: steps)")
    axes.set_ylabel(f"{study.figure.name}, {study.figure.better} is better")
    axes.legend(fontsize=7)
    return canvas


def _lines(results: Sequence[Result]) -> Iterator[tuple[_Line, list[Result], dict[str, object]]]:
    """The results by sampler, scale and interval: equal scales in one colour, equal intervals in one style."""
    lines: dict[_Line, list[Result]] = {}
    for r in results:
        lines.setdefault((r.cell.sampler, r.cell.scale, r.cell.interval or ()), []).append(r)
    samplers, scales, intervals = (sorted(each) for each in map(set, zip(*lines, strict=True)))
    for line in sorted(lines):
        places = samplers.index(line[0]), scales.index(line[1]), intervals.index(line[2])
        look: dict[str, object] = {"marker": _MARKERS[places[0] % len(_MARKERS)]}
        look |= {"color": f"C{places[1] % 10}", "linestyle": _STYLES[places[2] % len(_STYLES)]}
        yield line, lines[line], look


def _bars(results: Sequence[Result]) -> list[list[float]] | None:
    """The intervals below and above, at least 0; None without them."""
    if any(r.low is None or r.high is None for r in results):
        return None
    below = [max(0.0, r.quality - (r.quality if r.low is None else r.low)) for r in results]
    return [below, [max(0.0, (r.quality if r.high is None else r.high) - r.quality) for r in results]]
