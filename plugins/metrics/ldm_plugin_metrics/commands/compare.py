"""``ldm-run compare``: several evaluations in one table and one plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core.cli import argument, command, option
from ldm_core.cli.options import json_option


@attrs.frozen(kw_only=True)
class CompareOptions:
    """Evaluations, and the file of the plot."""

    evaluations: tuple[str, ...] = argument(
        "EVALUATION...",
        "Folders of evaluations, or their evaluation.json; differences are from the first.",
        completes="file",
    )
    plot: str = option(
        "", "Draw the figures into this file: .png, .svg or .pdf.", metavar="FILE", otherwise="none", completes="file"
    )
    json: bool = json_option()


@command(
    CompareOptions,
    examples=[
        "ldm-run compare evaluations/a evaluations/b --plot figures.png",
        "ldm-run compare scale1/ scale2/ scale4/ --json",
    ],
)
def compare(options: CompareOptions) -> int:
    """Put the figures of evaluations side by side, with intervals and floors, and the differences of all from the
    first. Figures of other networks, or against other pictures, are not subtracted, and the reason is said. Intervals
    of differences need as many resampled figures (--bootstrap) in both."""
    from ldm_core.cli.output import reporting, say
    from ldm_core.errors import ConfigError
    from ldm_plugin_metrics.comparison import plot
    from ldm_plugin_metrics.comparison.compare import compare as compared

    with reporting(options.json) as document:
        if len(options.evaluations) < 2 and not options.plot:
            raise ConfigError("compare: give two evaluations or more, or --plot FILE to draw one")
        if options.plot:
            plot.require_format(options.plot)
        found = compared(options.evaluations)
        if options.plot:
            plot.draw(found, options.plot)
        document.update(status="done", plot=options.plot or None, **found)
        if not options.json:
            for line in _lines(found, options.plot):
                say(line, longest=4096)
    return 0


def _lines(found: Mapping[str, Any], plot: str) -> list[str]:
    from ldm_core.cli.output import table

    names = found["evaluations"]
    rows: list[tuple[str, ...]] = [("", *names, "")]
    for each in found["figures"]:
        shown = each["name"] if each["label"] == each["name"] else f"{each['name']} ({each['label']})"
        better = "higher is better" if each["higher_is_better"] else "lower is better"
        rows.append((shown, *map(_value, each["values"]), better))
        if any(each["differences"]):
            rows.append((f"  less {names[0]}", *map(_difference, each["differences"]), ""))
    reasons = [
        f"not compared: {each['name']} of {name}: {difference['incomparable']}"
        for each in found["figures"]
        for name, difference in zip(names, each["differences"], strict=True)
        if difference and "incomparable" in difference
    ]
    floors = any(value and "floor" in value for each in found["figures"] for value in each["values"])
    legend = ["in brackets: 95 % of resampled figures"] if "[" in str(rows) else []
    legend += ["after 'floor': two halves of the set that is compared with"] if floors else []
    return [*table(rows), *legend, *reasons, *found["notes"], *([plot] if plot else [])]


def _value(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    span = " [{:.4g}, {:.4g}]".format(*value["interval"]) if "interval" in value else ""
    return f"{value['value']:.5g}{span}" + (f" floor {value['floor']:.3g}" if "floor" in value else "")


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    if "incomparable" in difference:
        return "not compared"
    text = f"{difference['value']:+.4g}"
    if "interval" in difference:
        text += " [{:+.3g}, {:+.3g}]".format(*difference["interval"])
        text += "" if difference["apart"] else " (within chance)"
    return text
