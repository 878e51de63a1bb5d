"""Curves of a run's measurements, drawn from the rows of metrics.jsonl. Imports no torch; matplotlib to draw."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ldm_core.training.folder.metrics import EVALUATION, VALIDATION, is_bin

_FIRST = (
    *("loss", "psnr", "pixel", "perceptual", "generator", "discriminator", "real_accuracy", "fake_accuracy"),
    *("adaptive_weight", "codebook_used", "perplexity", "kl", "grad_norm", "lr"),
)
_LAST = ("images_per_second", "data_wait", "peak_memory_mib")
_NOT_NUMBERS = ("stage", "step", "time")
_LOGARITHMIC = ("loss", "grad_norm", "grad_norm_discriminator", "kl")
_MOST = 24
_WIDTH = 9.0
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.58, 0.14, 0.27, 0.45
"""Inches beside a panel: for a number of seven digits, half of the last tick's, a title, and ticks with their name."""

Points = list[tuple[int, float]]


def pictures(rows: Sequence[Mapping[str, Any]], stage: str) -> dict[str, bytes]:
    """The PNGs of a stage: ``loss`` with every number over the steps, and ``validation`` by bins of time. Only those
    with two points or more."""
    drawn = {"loss": draw_curves(rows, stage), "validation": draw_bins(rows, stage)}
    return {name: data for name, data in drawn.items() if data is not None}


def draw_curves(rows: Sequence[Mapping[str, Any]], stage: str) -> bytes | None:
    """Every number of a stage over its steps, one panel each, with the validation's beside it, and those of samples;
    numbers of one kind (``kl_0``, ``kl_1``, ...) share a panel. None if there is nothing to draw."""
    training = [r for r in rows if r["stage"] == stage]
    validation = [r for r in rows if r["stage"] == stage + VALIDATION]
    panels = _panels(training, validation, [r for r in rows if r["stage"] == stage + EVALUATION])
    if not any(len(points) > 1 for lines in panels.values() for points in lines.values()):
        return None
    figure, axes = _figure(len(panels), 2)
    for axis, (name, lines) in zip(axes, panels.items(), strict=False):
        for label, points in lines.items():
            held_out = label.startswith(("validation", "samples"))
            style = {"color": "tab:orange"} if held_out else {}
            marker = "o" if held_out or len(points) == 1 else None
            axis.plot(*zip(*points, strict=True), linewidth=1, marker=marker, markersize=3, label=label, **style)
        title = name.replace("_", " ")
        axis.set_title(f"{stage.replace('_', ' ')}: {title}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        values = [v for points in lines.values() for _, v in points]
        if name in _LOGARITHMIC and min(values) > 0:
            _logarithmic(axis)
        elif name in _LAST:
            axis.set_ylim(0, 1.1 * max(values) or 1)
        if len(lines) > 1 and len(lines) <= 6:
            axis.legend(fontsize=7)
    return _png(figure)


def draw_bins(rows: Sequence[Mapping[str, Any]], stage: str) -> bytes | None:
    """The validation loss by bins of diffusion time: each bin over the steps, and the first and last measurement over
    the bins. None if it was not measured."""
    measured = [r for r in rows if r["stage"] == stage + VALIDATION]
    names = sorted({n for r in measured for n in r if "loss" in n and is_bin(n)}, key=_number)
    if not names:
        return None
    from matplotlib import colormaps

    steps = len(measured) > 1  # of one measurement there is nothing to show over the steps
    figure, axes = _figure(1 + steps, 1 + steps)
    colours = [colormaps["viridis"](i / max(1, len(names) - 1)) for i in range(len(names))]
    for name, colour in zip(names if steps else (), colours, strict=False):
        points = _points(measured, name)
        axes[0].plot(*zip(*points, strict=True), linewidth=1, marker="o", markersize=3, color=colour,
                     label=f"bin {_number(name)}")  # fmt: skip
    if steps:
        axes[0].set_title("held-out loss by bins of time, 0 = least noise", fontsize=9)
        axes[0].set_xlabel("step", fontsize=8)
        if len(names) <= 10:
            axes[0].legend(fontsize=6, ncols=2)
    last = axes[int(steps)]
    for row in dict.fromkeys([0, len(measured) - 1]):
        values = [(_number(n), measured[row][n]) for n in names if isinstance(measured[row].get(n), int | float)]
        if values:
            last.plot(*zip(*values, strict=True), marker="o", markersize=3, linewidth=1,
                      label=f"step {measured[row]['step']}")  # fmt: skip
    last.set_title("first and last measurement" if steps else "held-out loss by bins of time", fontsize=9)
    last.set_xlabel("bin of time, 0 = least noise", fontsize=8)
    last.legend(fontsize=7)
    for axis in axes[: 1 + steps]:
        if min(v for line in axis.get_lines() for v in line.get_ydata()) > 0:
            _logarithmic(axis)
    return _png(figure)


def _panels(
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Title -> label -> points."""
    found: dict[str, dict[str, Points]] = {}
    for source, rows in (("", training), ("validation", validation), ("samples", metrics)):
        for name in dict.fromkeys(n for r in rows for n in r if n not in _NOT_NUMBERS):
            plain = name.removeprefix("val_") if source else name
            if source == "validation" and is_bin(name) and "loss" in name:
                continue  # a picture of its own
            if not (points := _points(rows, name)):
                continue
            title = plain.rpartition("_")[0] + " by channel" if is_bin(plain) and source != "samples" else plain
            label = f"{source} {plain}".strip() if title != plain else source or "training"
            found.setdefault(title, {})[label] = points
    order = [n for n in (*_FIRST, *sorted(set(found) - {*_FIRST, *_LAST}), *_LAST) if n in found]
    return {n: found[n] for n in order[:_MOST]}


def _points(rows: Iterable[Mapping[str, Any]], name: str) -> Points:
    return [(r["step"], float(r[name])) for r in rows if isinstance(r.get(name), int | float)]


def _number(name: str) -> int:
    return int(name.rpartition("_")[2].removeprefix("t"))


def _figure(panels: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = -(-panels // columns)
    figure = Figure(figsize=(_WIDTH, 2.2 * height if height > 1 else 3))
    FigureCanvasAgg(figure)
    _set_margins(figure, height, columns)
    axes = list(figure.subplots(height, columns, squeeze=False).flatten())
    for axis in axes[:panels]:
        axis.tick_params(labelsize=7)
        axis.xaxis.get_offset_text().set_fontsize(7)
        axis.yaxis.get_offset_text().set_fontsize(7)
        axis.grid(alpha=0.3)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes


def _set_margins(figure: Any, rows: int, columns: int) -> None:
    """Leave room for what stands around each panel. A layout found by matplotlib draws everything two times more, which
    takes longer than the rest of a short training's end."""
    high = figure.get_figheight()
    width = (_WIDTH - _RIGHT) / columns - _LEFT
    height = high / rows - _ABOVE - _BELOW
    figure.subplots_adjust(
        left=_LEFT / _WIDTH,
        right=1 - _RIGHT / _WIDTH,
        bottom=_BELOW / high,
        top=1 - _ABOVE / high,
        wspace=_LEFT / width,
        hspace=(_ABOVE + _BELOW) / height,
    )


def _logarithmic(axis: Any) -> None:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.9 in the place of 9e-01, if the formatter labels a tick at all."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_yscale("log")
    for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        ticks(Plain(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    axis.tick_params(which="minor", labelsize=7)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
