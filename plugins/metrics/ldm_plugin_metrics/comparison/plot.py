"""The plot of a comparison: a panel a figure, intervals as bars, the floor dashed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ldm_core import storage
from ldm_core.errors import ConfigError

FORMATS = ("png", "svg", "pdf")
_MOST = 24
_COLUMNS = 3


def draw(found: Mapping[str, Any], url: str) -> None:
    """Draw a comparison into a file; ConfigError for another ending than those of :data:`FORMATS`."""
    require_format(url)
    kind = url.rpartition(".")[2].lower()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures, names = found["figures"][:_MOST], found["evaluations"]
    columns = min(_COLUMNS, max(1, len(figures)))
    rows = -(-len(figures) // columns) or 1
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.3 * max(map(len, names)) / 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, each in zip(axes, figures, strict=False):
        _panel(axis, each, names)
    for axis in list(axes)[len(figures) :]:
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
