"""The plot of a comparison: a panel a figure, intervals as bars, the floor dashed; one for rate and distortion."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core import storage
from ldm_core.errors import ConfigError

FORMATS = ("png", "svg", "pdf")
_MOST = 24
_COLUMNS = 3
_POINT = re.compile(r"(rate|rmse)@(\d+)")
"""A value of `bound` at one level, drawn as a point of a curve."""


def draw(found: Mapping[str, Any], url: str) -> None:
    """Draw a comparison into a file; ConfigError for another ending than those of :data:`FORMATS`."""
    require_format(url)
    kind = url.rpartition(".")[2].lower()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, curves = found["evaluations"], _curves(found["figures"], found["evaluations"])
    figures = [each for each in found["figures"] if not _POINT.fullmatch(each["name"])][:_MOST]
    count = len(figures) + bool(curves)
    columns = min(_COLUMNS, max(1, count))
    rows = -(-count // columns) or 1
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.3 * max(map(len, names)) / 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    panels = list(axes)
    for axis, each in zip(panels, figures, strict=False):
        _panel(axis, each, names)
    if curves:
        _rate_and_distortion(panels[len(figures)], curves)
    for axis in panels[count:]:
        axis.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    storage.atomic_write(url, buffer.getvalue())


def require_format(url: str) -> None:
    """ConfigError for a file that cannot be drawn."""
    if url.rpartition(".")[2].lower() not in FORMATS:
        raise ConfigError(f"{storage.shown(url)}: a plot ends in {', '.join('.' + each for each in FORMATS)}")


def _panel(axis: Any, each: Mapping[str, Any], names: list[str]) -> None:
    for place, value in enumerate(each["values"]):
        if value is None:
            continue
        low, high = value.get("interval", (value["value"], value["value"]))
        spread = [[max(0.0, value["value"] - low)], [max(0.0, high - value["value"])]]
        axis.errorbar([place], [value["value"]], yerr=spread, fmt="o", capsize=4, color="tab:blue")
        if "floor" in value:
            axis.hlines(value["floor"], place - 0.3, place + 0.3, colors="tab:gray", linestyles="dashed")
    title = each["name"] if each["label"] == each["name"] else f"{each['name']}: {each['label']}"
    better = "higher is better" if each["higher_is_better"] else "lower is better"
    axis.set_title(f"{title} ({better})", fontsize=8)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(alpha=0.3)


def _curves(figures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """The points (rate, error) by evaluation, from many bits to few; of each metric, if there are several."""
    found: dict[tuple[str, int], dict[int, dict[str, float]]] = {}
    for each in figures:
        if named := _POINT.fullmatch(each["name"]):
            for place, value in enumerate(each["values"]):
                if value is not None:
                    points = found.setdefault((each["metric"], place), {})
                    points.setdefault(int(named[2]), {})[named[1]] = value["value"]
    several = len({metric for metric, _ in found}) > 1
    made = {}
    for (metric, place), points in found.items():
        label = f"{names[place]}, {metric}" if several else names[place]
        made[label] = [(p["rate"], p["rmse"]) for _, p in sorted(points.items()) if len(p) == 2]
    return made


def _rate_and_distortion(axis: Any, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """The axes of figure 2 of the paper: bits of x_t a value of the picture, and the error of what they tell."""
    for name, points in curves.items():
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axis.set_title("bound: error of the estimate by the bits spent", fontsize=8)
    axis.set_xlabel("rate, bits per value of the picture", fontsize=7)
    axis.set_ylabel("RMSE", fontsize=7)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
