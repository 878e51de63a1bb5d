"""metrics.jsonl and the loss curves drawn from it."""

from __future__ import annotations

import io
import json
import time
from typing import Any

from ldm_core import storage


class MetricsFile:
    """Lines of ``metrics.jsonl``, one JSON object each; written every few seconds and at the end."""

    def __init__(self, url: str, *, active: bool = True) -> None:
        self._url, self._active = url, active
        self._lines: list[str] = []
        self._written = time.monotonic()

    def write(self, **values: Any) -> None:
        """Add a line."""
        if self._active:
            self._lines.append(json.dumps({**values, "time": round(time.time(), 3)}))
            if time.monotonic() - self._written > 10:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if self._lines:
            storage.append_text(self._url, "".join(line + "\n" for line in self._lines))
            self._lines = []
        self._written = time.monotonic()

    def read(self) -> list[dict[str, Any]]:
        """All lines; where a step comes twice (after a resume), the later line counts."""
        self.flush()
        if not storage.exists(self._url):
            return []
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for line in storage.read_text(self._url).splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # half a line: the process was killed, or the disk was full, while it was written
                continue
            rows[row["stage"], row["step"]] = row
        return sorted(rows.values(), key=lambda r: (r["stage"], r["step"]))


def draw_curves(rows: list[dict[str, Any]], stage: str) -> bytes | None:
    """The loss curves of a stage as a PNG; None where there is nothing to draw."""
    rows = [r for r in rows if r["stage"] == stage and "loss" in r]
    if len(rows) < 2:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.9 in the place of 9e-01, where the formatter labels a tick at all."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    wanted = ("loss", "pixel", "perceptual", "generator", "discriminator", "codebook_used", "grad_norm")
    names = [n for n in wanted if any(n in r for r in rows)]
    figure = Figure(figsize=(9, 2.2 * ((len(names) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots((len(names) + 1) // 2, 2, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        points = [(r["step"], r[name]) for r in rows if name in r]
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set_title(f"{stage}: {name}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        if name in ("loss", "grad_norm") and min(p[1] for p in points) > 0:
            axis.set_yscale("log")
            for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                ticks(Plain(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
            axis.tick_params(which="minor", labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
