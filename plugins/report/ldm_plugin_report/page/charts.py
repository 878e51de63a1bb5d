"""Curves as SVG, readable without a script and in print; the page's script draws them anew with hover and zoom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from ldm_plugin_report.curves import Points, rounded
from ldm_plugin_report.page.html import Markup, join, tag

WIDTH, HEIGHT = 380, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 22
_LEGEND = 6
SHOWN = 6
"""Charts beside each other that are not folded away."""
_COLOURS, _RAMP = 8, 10
TITLES = {
    "images_per_second": "speed (images/s)",
    "data_wait": "waits for data (share)",
    "peak_memory_mib": "peak memory (MiB)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "nll": "NLL",
    "kl": "KL",
    "kl_min": "KL, least channel",
    "kl_max": "KL, largest channel",
    "kl by channel": "KL by channel",
}
"""Numbers' names in words."""
_FROM_ZERO = ("images_per_second", "data_wait", "peak_memory_mib")


@attrs.frozen
class Curve:
    """A line of a chart with its style: a class of the style sheet."""

    label: str
    points: Points
    style: str


@attrs.frozen
class Chart:
    """A chart. `name`: the number's; `group`: charts that share their zoom; `ramp`: colours go by the lines' order;
    `axis`: the name of the axis to the right."""

    name: str
    group: str
    curves: Sequence[Curve]
    log: bool = False
    ramp: bool = False
    axis: str = "step"

    @property
    def title(self) -> str:
        """The name in words, with its unit."""
        return TITLES.get(self.name, self.name.replace("_", " "))

    def plain(self) -> dict[str, object]:
        """For the page's script."""
        lines = [{"label": c.label, "style": c.style, "points": rounded(c.points)} for c in self.curves]
        zero = self.name in _FROM_ZERO
        return {"group": self.group, "log": self.log, "zero": zero, "axis": self.axis, "lines": lines}


def styled(lines: Sequence[tuple[str, Points]], *, ramp: bool, held_out: Iterable[str] = ()) -> list[Curve]:
    """Curves of lines by label, with colours of their own; those of the labels `held_out` have marks."""
    marked = set(held_out)
    count = max(1, len(lines) - 1)
    return [
        Curve(
            label,
            points,
            f"v{round(i * (_RAMP - 1) / count)}" if ramp else f"c{i % _COLOURS}" + " held" * (label in marked),
        )
        for i, (label, points) in enumerate(lines)
    ]


def grid(found: Sequence[Chart], charts: list[Chart]) -> Markup:
    """Charts beside each other, put on the list of the page's script; those beyond :data:`SHOWN` are folded away."""
    some = [chart for chart in found if any(curve.points for curve in chart.curves)]
    drawn = [draw(chart, len(charts) + i) for i, chart in enumerate(some)]
    charts += some
    if len(drawn) <= SHOWN + 1:
        return tag("div", drawn, class_="charts")
    more = tag("summary", f"{len(drawn) - SHOWN} more curves")
    rest = tag("details", more, tag("div", drawn[SHOWN:], class_="charts"), class_="more")
    return join(tag("div", drawn[:SHOWN], class_="charts"), rest)


def draw(chart: Chart, number: int) -> Markup:
    """The figure: its title, legend and curves."""
    held = [c for c in chart.curves if c.points]
    final = "" if len(held) != 1 or chart.axis != "step" else f"{held[0].points[-1][1]:.4g}"
    head = tag("div", tag("h4", chart.title), tag("span", final, class_="last"), class_="chart-head")
    return tag("figure", head, _svg(chart), _legend(chart), class_="chart", data_chart=number)


def _legend(chart: Chart) -> Markup | None:
    labels = list(chart.curves)
    if len(labels) < 2 and not chart.ramp:
        return tag("figcaption", _key(labels[0])) if labels and labels[0].label != "training" else None
    if len(labels) > _LEGEND:
        first, last = _key(labels[0]), _key(labels[-1])
        return tag("figcaption", first, tag("span", "…"), last, tag("span", f"{len(labels)} lines", class_="quiet"))
    return tag("figcaption", [_key(each) for each in labels])


def _key(curve: Curve) -> Markup:
    return tag("span", tag("i", class_=f"dot {curve.style}"), curve.label, class_="key")


def _svg(chart: Chart) -> Markup:
    points = [point for curve in chart.curves for point in curve.points]
    if not points:
        return tag("p", "no finite numbers", class_="quiet")
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    lows, highs = min(p[1] for p in points), max(p[1] for p in points)
    scale = _Scale(x0, x1, *span(lows, highs, chart.log, zero=chart.name in _FROM_ZERO), chart.log)
    rows = [_grid_y(scale, value) for value in (log_ticks if chart.log else ticks)(scale.low, scale.high)]
    columns = [
        tag("text", count(value), x=round(scale.x(value), 1), y=HEIGHT - 6, text_anchor=_anchor(scale.x(value)))
        for value in ticks(x0, x1, 4, whole=True)
        if x0 <= value <= x1
    ]
    lines = [_line(curve, scale) for curve in chart.curves]
    said = f"{chart.title} from {chart.axis} {x0:,} to {x1:,}: " + "; ".join(
        f"{c.label} {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in chart.curves[:_LEGEND] if c.points
    )
    box = f"0 0 {WIDTH} {HEIGHT}"
    return tag("svg", join(rows, columns, lines), viewBox=box, role="img", aria_label=said, tabindex=0)


def _anchor(x: float) -> str:
    return "end" if x > WIDTH - 30 else "start" if x < _LEFT + 8 else "middle"


@attrs.frozen
class _Scale:
    """Steps and values to the pixels of the picture."""

    first: float
    last: float
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        """The place of a step; of the only one, the middle."""
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """The place of a value."""
        low, high, at = (map(math.log10, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return _TOP + (high - at) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def span(low: float, high: float, log: bool, *, zero: bool = False) -> tuple[float, float]:
    """The ends of an axis of values `low` to `high`, with some room."""
    if log:
        room = max(1.05, (high / low) ** 0.05)
        return low / room, high * room
    if zero and low >= 0:
        return 0.0, high * 1.08 or 1.0
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`; `whole` ones, of steps."""
    if not high > low:
        return [low]
    raw = max((high - low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        (power * times for times in ((1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)) if power * times >= raw * 0.999),
        power * 10,
    )
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(most + 3) if (first + i) * step <= high * (1 + 1e-9) + 1e-12]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`, or the powers alone if they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 6)
    times: tuple[int, ...] = (1,) if len(powers) > 4 else (1, 2, 5)
    found = [t * 10.0**p for p in powers if p % every == 0 for t in times]
    return [value for value in found if low <= value <= high] or [low]


def count(value: float) -> str:
    """A step: ``500``, ``1,500``, ``20k``, ``1.5M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if unit != 'k' else 1e3):.4g}{unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def short(value: float) -> str:
    """A value at an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def _grid_y(scale: _Scale, value: float) -> Markup:
    y = round(scale.y(value), 1)
    line = tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
    return join(line, tag("text", short(value), x=_LEFT - 6, y=y + 3.5, text_anchor="end"))


def _line(curve: Curve, scale: _Scale) -> Markup:
    places = [f"{scale.x(step):.1f} {scale.y(value):.1f}" for step, value in curve.points]
    marks = curve.points if "held" in curve.style or len(places) == 1 else []
    dots = [
        tag("circle", cx=f"{scale.x(s):.1f}", cy=f"{scale.y(v):.1f}", r=2.4, class_=curve.style) for s, v in marks[:120]
    ]
    path = tag("path", d="M" + "L".join(places), class_=f"line {curve.style}") if len(places) > 1 else ""
    return join(path, dots)
