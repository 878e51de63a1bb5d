"""A run in training, drawn in a terminal: a table with sparklines, and its newest preview in half blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ldm_core.cli.progress import duration, memory
from ldm_core.errors import LDMError, clean
from ldm_core.training.folder.state import RUNS
from ldm_plugin_report.curves import Points
from ldm_plugin_report.pace import Pace
from ldm_plugin_report.page.charts import TITLES
from ldm_plugin_report.pictures import decoded
from ldm_plugin_report.run import Facts

_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_SPARK = 40
_NAMES = ("loss", "psnr", "ssim", "images_per_second", "data_wait", "peak_memory_mib", "grad_norm", "lr")
_ROWS, _COLUMNS = 20, 100  # of the preview
_WARNINGS = 3
_SLOW = 60.0  # seconds after which the age of the last measurement is told


def sparkline(points: Points, width: int, *, log: bool = False, plain: bool = False) -> str:
    """Values over their steps as one line of up to `width` characters, each the mean of its part."""
    count = min(width, len(points))
    parts = [points[i * len(points) // count : (i + 1) * len(points) // count] for i in range(count)]
    values = [sum(value for _, value in part) / len(part) for part in parts]
    if log and min(values, default=0) > 0:
        values = [math.log(value) for value in values]
    low, high = min(values, default=0), max(values, default=0)
    marks = _PLAIN if plain else _BLOCKS
    return "".join(marks[round((v - low) / (high - low) * 7) if high > low else 3] for v in values)


def view(facts: Facts, found: Sequence[Pace], console: Console, trouble: str = "") -> RenderableType:
    """The whole view: title, stages, warnings, preview."""
    plain = not console.encoding.lower().startswith("utf")
    head = Text.assemble((facts.name, "bold"), "  ", (facts.state, "green" if facts.state == RUNS else "yellow"))
    parts: list[RenderableType] = [head]
    if not found:
        parts.append(Text("nothing is measured yet", "dim"))
    for number, pace in enumerate(found):
        parts.append(_stage_line(pace, running=facts.state == RUNS and number == len(found) - 1))
        if number == len(found) - 1:
            parts.append(_table(pace, console.width, plain))
    parts += [Text(f"warning: {facts.public(each.text, 240)}", "yellow") for each in facts.events.warnings[-_WARNINGS:]]
    if trouble:
        parts.append(Text(clean(trouble, 240), "red"))
    if not plain and (picture := preview(facts, console)) is not None:
        parts.append(picture)
    return Group(*parts)


def _stage_line(pace: Pace, *, running: bool) -> Text:
    return Text(line(pace, running=running), "bold" if running else "dim")


def line(pace: Pace, *, running: bool = True) -> str:
    """A stage in a line: ``denoiser 1,200/4,000 (30%), loss 0.31, 1.5 steps/s, 31 min 05 s left``."""
    of = f"/{pace.steps:,} ({pace.share:.0%})" if pace.steps else ""
    said = [f"{clean(pace.stage.name, 40).replace('_', ' ')} {pace.stage.step:,}{of}"]
    if (loss := pace.last("loss")) is not None:
        said.append(f"loss {loss:.4g}")
    if (held := pace.last("loss", "held out")) is not None:
        said.append(f"held out {held:.4g}")
    if (speed := pace.last("images_per_second")) is not None:
        said.append(f"{speed:.3g} images/s")
    if running and pace.rate:
        said.append(f"{pace.rate:.3g} steps/s" if pace.rate >= 1 else f"{1 / pace.rate:.3g} s/step")
        if pace.left:
            said.append(f"{duration(pace.left)} left")
        if (age := time.time() - pace.measured) > max(_SLOW, 60 / pace.rate):
            said.append(f"last measured {duration(age)} ago")
    return ", ".join(said)


def _table(pace: Pace, width: int, plain: bool) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    room = max(10, min(_SPARK, width - 46))
    panels = {panel.name: panel for panel in pace.stage.panels}
    others = [name for name in panels if name not in _NAMES and " by " not in name]
    for name in [*(n for n in _NAMES if n in panels), *others][:12]:
        for each in panels[name].lines[:3]:
            label = "" if each.label == "training" else f", {each.label}"
            title = clean(TITLES.get(name, name.replace("_", " ")) + label, 34)
            spark = sparkline(each.points, room, log=panels[name].log, plain=plain)
            table.add_row(Text(f"  {title}"), Text(_value(name, each.points[-1][1])), Text(spark, "cyan"))
    return table


def _value(name: str, value: float) -> str:
    if name == "data_wait":
        return f"{value:.1%}"
    return memory(value) if name == "peak_memory_mib" else f"{value:.4g}"


def preview(facts: Facts, console: Console) -> RenderableType | None:
    """The newest picture of the run in half blocks, if the terminal has colours and room."""
    sheet = [facts.sheet] if facts.sheet and facts.state != RUNS else []
    newest = [*facts.stage_previews[-1:], *facts.previews[-1:], *sheet][-1:]
    if not newest or console.color_system in (None, "standard") or console.width < 40:
        return None
    from PIL import Image

    try:
        picture = decoded(newest[0].data(), "preview").convert("RGB")
    except LDMError:
        return None
    columns = min(console.width - 2, _COLUMNS)
    rows = max(1, min(_ROWS, round(picture.height / picture.width * columns / 2)))
    columns = min(columns, max(1, round(rows * 2 * picture.width / picture.height)))
    small = picture.resize((columns, 2 * rows), Image.Resampling.BOX)
    text = Text(f"{clean(newest[0].url.replace(facts.url, '').strip('/'), 80)}\n")
    colours: Any = small.load()
    for row in range(rows):
        for column in range(columns):
            above, below = (colours[column, 2 * row + i] for i in (0, 1))
            text.append("▀", Style(color=_rgb(above), bgcolor=_rgb(below)))
        text.append("\n")
    return text


def _rgb(levels: Any) -> str:
    red, green, blue = levels
    return f"rgb({red},{green},{blue})"
