"""The results of a tuning as CSV, Markdown, JSON, PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.contracts import Precision
from ldm_core.weights.presets import Measured, Preset, Value
from ldm_plugin_study.bench.result.table import aligned, duration
from ldm_plugin_study.study import files
from ldm_plugin_study.study.quality import Figure
from ldm_plugin_study.tune.choice import NAMES, Rule, Tried, rule_in_words
from ldm_plugin_study.tune.halving import fronts

NAME = "tune"
"""The name of the files, before their endings."""


@attrs.frozen(kw_only=True)
class Tuning:
    """All results of one run: of each rung the tried candidates, those of the last one with intervals; the chosen ones
    by the names of their presets; the candidate with the model's own settings comes first in each rung."""

    run: str
    rungs: tuple[tuple[Tried, ...], ...]
    chosen: Mapping[str, Tried]
    rule: Rule
    machine: str
    batch: int

    @property
    def figure(self) -> Figure:
        """The deciding figure, of one of the candidates."""
        return self.rungs[-1][0].figures[0]

    @property
    def last(self) -> list[Tried]:
        """The last rung, sorted by time."""
        return sorted(self.rungs[-1], key=lambda t: t.time)

    @property
    def front(self) -> list[Tried]:
        """The Pareto front of the last rung, fastest first."""
        return fronts(self.last, higher=self.figure.higher)[0]

    @property
    def own(self) -> Tried:
        """The model's own settings."""
        return self.rungs[-1][0]

    def names(self, tried: Tried) -> str:
        """The presets made of a candidate."""
        return ", ".join(name for name in NAMES if self.chosen[name] is tried)

    def presets(self) -> dict[str, Preset]:
        """The presets, as weights keep them."""
        return {name: self._preset(self.chosen[name]) for name in NAMES}

    def _preset(self, tried: Tried) -> Preset:
        values = tuple(
            Value(name=f.name, label=f.label[:300], value=f.value, low=f.low, high=f.high, higher_is_better=f.higher)
            for f in tried.figures
        )
        precision: Precision = tried.candidate.precision
        low, high = tried.span
        figures = Measured(
            values=values,
            images=tried.images,
            seconds=tried.time,
            seconds_low=low,
            seconds_high=high,
            batch=self.batch,
            speedup=self.own.time / tried.time,
            machine=self.machine[:300],
        )
        return Preset(settings=tried.candidate.plain(), precision=precision, measured=figures)

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": storage.shown(self.run),
            "quality": self.figure.plain(),
            "protocol": self.figure.line,
            "machine": self.machine,
            "batch": self.batch,
            "rungs": [[t.plain() for t in rung] for rung in self.rungs],
            "front": [t.candidate.name for t in self.front],
            "presets": {name: t.candidate.name for name, t in self.chosen.items()},
            "rule": rule_in_words(self.rule),
        }


def write(made: Tuning, folder: str) -> list[str]:
    """Write all files to `folder`; their URLs."""
    return files.write(folder, NAME, csv=_csv(made), markdown=markdown(made), plain=made.plain(), canvas=_picture(made))


def lines(made: Tuning) -> list[str]:
    """The table and the presets for a reader."""
    return [_head(made), "", *aligned(_cells(made)), "", *_said(made)]


def markdown(made: Tuning) -> list[str]:
    """The table and the presets as Markdown."""
    out = [f"{_head(made)}.", "", *files.markdown_table(_cells(made)), "", f"![Quality over time]({NAME}.svg)", ""]
    return [
        *out,
        *(f"* {line}" for line in _said(made)),
        "",
        f"Protocol of the model's own settings: {made.own.figures[0].line}",
    ]


def _head(made: Tuning) -> str:
    rungs = ", ".join(f"{len(rung)} on {rung[0].images}" for rung in made.rungs)
    return f"{made.figure.head}; candidates by pictures: {rungs}; batches of {made.batch}; {made.machine}"


def _said(made: Tuning) -> Iterator[str]:
    for name, preset in made.presets().items():
        assert preset.measured is not None
        yield f"{name}: {made.chosen[name].candidate.label}; {preset.measured.in_words()}"
    yield rule_in_words(made.rule)


def _cells(made: Tuning) -> list[tuple[str, ...]]:
    others = [f.name for f in made.own.figures[1:]]
    rows: list[tuple[str, ...]] = [
        ("SETTINGS", "PRESET", made.figure.name, "95 %", *others, "TIME", "PAIRS", "OWN / IT", "FRONT")
    ]
    front = made.front
    for t in made.last:
        low, high = t.span
        own = "the model's own: " if t is made.own else ""
        rows.append(
            (
                *(own + t.candidate.label, made.names(t), f"{t.quality:.4g}", bounds(t.figures[0])),
                *(f"{f.value:.4g}" for f in t.figures[1:]),
                *(duration(t.time), f"{duration(low)} to {duration(high)}", f"{made.own.time / t.time:.3g}"),
                "*" if any(t is each for each in front) else "",
            )
        )
    return rows


def bounds(figure: Figure) -> str:
    """The interval of a figure; "" without."""
    return "" if figure.low is None or figure.high is None else f"{figure.low:.4g} to {figure.high:.4g}"


def _csv(made: Tuning) -> Iterator[Sequence[object]]:
    names = [f.name for f in made.own.figures]
    head = ("rung", "images", "settings", "precision", "steps", *names, "low", "high")
    yield [*head, "seconds_per_image", "seconds_low", "seconds_high", "preset"]
    for number, rung in enumerate(made.rungs):
        for t in rung:
            c, counts = t.candidate, t.figures[0]
            own = [number + 1, t.images, " ".join(c.settings), c.precision, c.steps, *(f.value for f in t.figures)]
            yield [*own, counts.low, counts.high, t.time, *t.span, made.names(t)]


def _picture(made: Tuning) -> Any:
    """Quality over time: all candidates on few pictures, and those of the last rung with their intervals."""
    canvas = files.canvas(12, 6)
    panels = canvas.subplots(1, 2 if len(made.rungs) > 1 else 1, squeeze=False)[0]
    if len(made.rungs) > 1:
        _panel(panels[0], made, made.rungs[0], f"all candidates, {made.rungs[0][0].images} pictures each")
    last = panels[-1]
    front = made.front
    last.plot([t.time for t in front], [t.quality for t in front], color="0.8", linewidth=6, label="front", zorder=0)
    _panel(last, made, made.rungs[-1], f"the last rung, {made.own.images} pictures each")
    if made.figure.floor is not None:
        last.axhline(made.figure.floor, color="0.5", linestyle=":", label="halves of the reference")
    for name, color in zip(NAMES, ("C2", "C1", "C3"), strict=True):
        t = made.chosen[name]
        said = made.names(t)
        if said.startswith(name):  # one candidate of several names is drawn once
            label = f"{said}: {t.candidate.label}"
            last.plot([t.time], [t.quality], "o", markersize=11, fillstyle="none", color=color, label=label)
    last.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return canvas


def _panel(axes: Any, made: Tuning, tried: Sequence[Tried], title: str) -> None:
    for sampler in dict.fromkeys(t.candidate.sampler for t in tried):
        some = [t for t in tried if t.candidate.sampler == sampler]
        axes.errorbar(
            [t.time for t in some],
            [t.quality for t in some],
            yerr=_bars(some),
            fmt="o",
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            label=sampler,
        )
    own = tried[0]
    axes.plot([own.time], [own.quality], "x", color="k", label="the model's own settings")
    for t in tried:
        axes.annotate(
            str(t.candidate.steps), (t.time, t.quality), textcoords="offset points", xytext=(4, 4), fontsize=7
        )
    axes.set_xscale("log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda seconds, _: f"{seconds:g}" if f"{seconds:e}"[0] in "125" else "")
    axes.set_xlabel("seconds a picture (numbers: steps)")
    axes.set_ylabel(f"{made.figure.name}, {made.figure.better} is better")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)


def _bars(tried: Sequence[Tried]) -> list[list[float]] | None:
    """The intervals below and above, at least 0; None without them."""
    counts = [t.figures[0] for t in tried]
    if any(f.low is None or f.high is None for f in counts):
        return None
    below = [max(0.0, f.value - (f.value if f.low is None else f.low)) for f in counts]
    return [below, [max(0.0, (f.value if f.high is None else f.high) - f.value) for f in counts]]
