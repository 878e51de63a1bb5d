"""The measurements of a run as curves, read again and again while it trains. Imports no torch.

:class:`Measurements` reads ``metrics.jsonl`` of a folder or URL; after the first time, its new lines alone.
:func:`stages` sorts the rows into panels of lines, :func:`plain` makes JSON of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.training.folder.metrics import EVALUATION, VALIDATION, is_bin, rows_of
from ldm_core.training.folder.own_files import METRICS

_FIRST = (
    *(
        "loss",
        "loss by diffusion time",
        "psnr",
        "ssim",
        "images_per_second",
        "pixel",
        "perceptual",
        "generator",
        "discriminator",
        "real_accuracy",
        "fake_accuracy",
    ),
    *("adaptive_weight", "codebook_used", "perplexity", "kl", "kl by channel", "grad_norm", "lr"),
)
_LAST = ("data_wait", "peak_memory_mib")
_NO_NUMBERS = ("stage", "step", "time")
_LOGARITHMIC = ("loss", "grad_norm", "grad_norm_discriminator", "kl", "pixel", "nll", "regularization")
_ENDINGS = {"training": "", "held out": VALIDATION, "samples": EVALUATION}
_TIMES, _CHANNELS = " by diffusion time", " by channel"
_MOST_STEPS = 10**15
_MOST_PANELS, _MOST_LINES = 48, 64  # a file from elsewhere may name any number of measurements
_MOST_ROWS = 500_000
_MOST_BYTES = 1 << 28
_OVERLAP = 64  # bytes before the new ones that are compared with those known

Points = list[tuple[int, float]]


@attrs.frozen
class Line:
    """One curve: `label` is ``training``, ``held out``, ``samples``, or a number's name, a bin or a channel."""

    label: str
    points: Points


@attrs.frozen
class Panel:
    """The lines of one kind of number. `log`: its values are best read on a logarithmic axis."""

    name: str
    lines: list[Line]
    log: bool = False


@attrs.frozen
class Stage:
    """A trained stage with its panels, up to step `step`."""

    name: str
    step: int
    panels: list[Panel]


class Measurements:
    """The rows of ``metrics.jsonl`` of the run at `url`. :meth:`update` reads new lines alone; a file written anew
    (healed, or replaced in object storage by another) is read from its begin."""

    def __init__(self, url: str) -> None:
        self._url = storage.join(url, METRICS)
        self._data = b""
        self._mark: object = None
        self.rows: list[dict[str, Any]] = []
        """Those of :func:`~ldm_core.training.folder.metrics.rows_of`."""
        self.damaged = 0
        """Lines that do not read."""
        self.there = False
        """True if the file is there."""

    def update(self) -> bool:
        """Read the new lines and tell if there are any. Raises StorageError if the storage does not answer."""
        if not storage.exists(self._url):
            changed, self.there = self.there, False
            self._data, self.rows, self.damaged, self._mark = b"", [], 0, None
            return changed
        self.there = True
        info = storage.info(self._url)
        if (info.size, info.mark) == self._mark and info.size == len(self._data):
            return False
        known = len(self._data)
        at = max(0, known - _OVERLAP)
        new = storage.read_bytes(self._url, at) if known and info.size >= known else b""
        if known and new[: known - at] == self._data[at:]:
            changed = len(new) > known - at
            self._data += new[known - at :]
        else:
            self._data, changed = storage.read_bytes(self._url, most=_MOST_BYTES), True
        self._mark = (info.size, info.mark)
        if changed:
            lines = self._data.split(b"\n")[-_MOST_ROWS:]
            self.rows = [row for row in rows_of(map(_text, lines)) if 0 <= row["step"] < _MOST_STEPS]
            self.damaged = sum(1 for line in lines[:-1] if line.strip() and not _is_plain(line))
        return changed


def _is_plain(line: bytes) -> bool:
    """True for a row; one in the form of the trainers is not parsed again."""
    usual = line.startswith(b'{"stage": ') and line.endswith(b"}") and line.count(b"{") == 1
    return usual or bool(rows_of([_text(line)]))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def stages(rows: Sequence[Mapping[str, Any]], most: int = 400) -> list[Stage]:
    """The trained stages in the order of their training, each with panels of lines of up to `most` points."""
    names = dict.fromkeys(row["stage"] for row in rows)
    measured = tuple(ending for ending in _ENDINGS.values() if ending)
    found = [n for n in names if not n.endswith((*measured, "_evaluation"))]
    found += [n.removesuffix(e) for n in names for e in measured if n.endswith(e) and n.removesuffix(e) not in found]
    ordered = sorted(dict.fromkeys(found), key=lambda n: (n != "first_stage", n != "denoiser", n))
    return [_stage(name, rows, most) for name in ordered]


def _stage(name: str, rows: Sequence[Mapping[str, Any]], most: int) -> Stage:
    panels: dict[str, list[Line]] = {}
    last = 0
    for source, ending in _ENDINGS.items():
        own = [row for row in rows if row["stage"] == name + ending]
        last = max([last, *(int(row["step"]) for row in own)])
        for number in dict.fromkeys(n for row in own for n in row if n not in _NO_NUMBERS):
            if points := thinned(points_of(own, number), most):
                title, label = _place(number, source)
                lines = panels.setdefault(title, [])
                if len(lines) < _MOST_LINES:
                    lines.append(Line(label, points))
    order = [n for n in (*_FIRST, *sorted(set(panels) - {*_FIRST, *_LAST}), *_LAST) if n in panels]
    return Stage(name, last, [Panel(n, panels[n], _is_log(n, panels[n])) for n in order[:_MOST_PANELS]])


def _place(number: str, source: str) -> tuple[str, str]:
    """The panel of a number, and its label there."""
    held_out = source == "held out"
    short = number.removeprefix("val_") if held_out else number
    if not is_bin(short) or source == "samples":
        return short, source
    kind, _, which = short.rpartition("_")
    return (kind + _TIMES, which) if which.startswith("t") else (kind + _CHANNELS, which)


def _is_log(name: str, lines: Sequence[Line]) -> bool:
    values = [value for line in lines for _, value in line.points]
    kind = name.removesuffix(_TIMES).removesuffix(_CHANNELS)
    return kind in _LOGARITHMIC and min(values) > 0 and max(values) > 5 * min(values)


def points_of(rows: Iterable[Mapping[str, Any]], name: str) -> Points:
    """(step, value) of every row with a finite number of this name."""
    return [(row["step"], float(row[name])) for row in rows if is_number(row.get(name))]


def is_number(value: object) -> bool:
    """True for a finite number within a float's range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def thinned(points: Points, most: int) -> Points:
    """At most about `most` points: the first and last one, and of each span of steps the lowest and the highest."""
    if len(points) <= most:
        return points
    spans = max(1, (most - 2) // 2)
    inner = points[1:-1]
    kept: Points = [points[0]]
    for number in range(spans):
        span = inner[number * len(inner) // spans : (number + 1) * len(inner) // spans]
        if span:
            ends = {min(span, key=lambda point: point[1]), max(span, key=lambda point: point[1])}
            kept += sorted(ends)
    return [*kept, points[-1]]


def plain(found: Iterable[Stage]) -> list[dict[str, Any]]:
    """The stages as JSON has them: ``[{"stage", "step", "panels": [{"name", "log", "lines": [{"label", "points":
    [[step, value], ...]}]}]}]``, values with six digits."""
    return [
        {
            "stage": stage.name,
            "step": stage.step,
            "panels": [
                {
                    "name": p.name,
                    "log": p.log,
                    "lines": [{"label": s.label, "points": rounded(s.points)} for s in p.lines],
                }
                for p in stage.panels
            ],
        }
        for stage in found
    ]


def rounded(points: Points) -> list[list[float]]:
    """Points as lists, values with six digits."""
    return [[step, float(f"{value:.6g}")] for step, value in points]
