"""One self-contained HTML file on a run, or on several beside each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from ldm_core.catalog import Catalog
from ldm_core.catalog.release import VERSION
from ldm_core.training.folder.state import RUNS
from ldm_plugin_report import curves
from ldm_plugin_report.choices import Part, parts_of
from ldm_plugin_report.page import comparison, figures, tables
from ldm_plugin_report.page.charts import Chart, Curve, grid, styled
from ldm_plugin_report.page.figures import Limits
from ldm_plugin_report.page.html import Markup, data_block, hash_of, join, tag

if TYPE_CHECKING:
    from ldm_plugin_report.run import Facts

GENERATOR = "ldm-plugin-report"
"""The mark of a report: its file may be overwritten by another one."""
MOST_BYTES = 10_000_000
_ROOM = 0.97
_STATES = {"done": "finished", "training": "trains"}
_MOST_POINTS = 400


def page(runs: Sequence[Facts], *, refresh: int = 0, catalog: Catalog | None = None) -> str:
    """The report of one run, or the comparison of several. `refresh`: seconds after which a browser reads the file
    again; 0 for never. It has fewer than :data:`MOST_BYTES` bytes: pictures become fewer and smaller until then."""
    catalog = catalog or Catalog.discover()
    limits = Limits()
    while True:
        made = _page(runs, limits, refresh, catalog)
        if len(made.encode()) < MOST_BYTES * _ROOM or limits.sample_bytes < 1000:
            return made
        limits = limits.halved()


def _page(runs: Sequence[Facts], limits: Limits, refresh: int, catalog: Catalog) -> str:
    parts = [parts_of(facts.recipe, catalog) if facts.recipe else [] for facts in runs]
    charts: list[Chart] = []
    if len(runs) == 1:
        title, sections = f"{runs[0].name}: report of a run", _sections(runs[0], parts[0], limits, charts)
        head = _head(runs[0], parts[0])
    else:
        title = "comparison of " + ", ".join(facts.name for facts in runs)
        sections, head = comparison.sections(runs, parts, limits, charts), comparison.head(runs)
    shown = [(name, words, body) for name, words, body in sections if body]
    links = tag("nav", [tag("a", words, href=f"#{name}") for name, words, _ in shown], aria_label="sections")
    body = [tag("section", tag("h2", words), made, id=name) for name, words, made in shown]
    return _document(title, join(head, links, tag("main", body), _foot()), charts, refresh)


def _sections(
    facts: Facts, parts: Sequence[Part], limits: Limits, charts: list[Chart]
) -> list[tuple[str, str, Markup | None]]:
    """(id, title, content) of each section of a run's report."""
    stages = curves.stages(facts.rows, _MOST_POINTS)
    drawn = [tag("div", tag("h3", s.name.replace("_", " ")), grid(charts_of(s), charts)) for s in stages]
    previews = figures.film(facts.previews, limits, "previews")
    stage_previews = figures.film(facts.stage_previews, limits, "previews of the first stage")
    return [
        ("samples", "Samples", figures.samples(facts, limits)),
        ("previews", "Previews over time", join(previews, stage_previews) if previews or stage_previews else None),
        ("reconstructions", "Reconstructions", figures.reconstructions(facts, limits)),
        ("curves", "Curves", join(drawn) if drawn else None),
        ("metrics", "Metrics", tables.metrics(facts)),
        ("times", "Time, speed, memory", tables.times(facts)),
        ("warnings", "Warnings", tables.warnings_met(facts)),
        ("recipe", "Recipe", tables.recipe(parts)),
        ("parts", "Parts and versions", tables.parts_table(facts, parts)),
        ("data", "Data", join(tables.data(facts, parts), figures.sheet_of(facts.data_sheet, limits, "data sheet"))),
    ]


def charts_of(stage: curves.Stage) -> list[Chart]:
    """The charts of a stage."""
    made = []
    for panel in stage.panels:
        lines = [(line.label, line.points) for line in panel.lines]
        ramp = " by " in panel.name
        if ramp and all(len(points) == 1 for _, points in lines):  # measured once: over the bins themselves
            made.append(_over_bins(panel, stage.name))
            continue
        styles = styled(lines, ramp=ramp, held_out=("held out", "samples"))
        made.append(Chart(panel.name, stage.name, styles, panel.log, ramp))
    return made


def _over_bins(panel: curves.Panel, stage: str) -> Chart:
    points = [(int(line.label.removeprefix("t")), line.points[0][1]) for line in panel.lines]
    axis = panel.name.rpartition(" by ")[2]
    curve = Curve("0: least noise" if "time" in axis else "by channel", sorted(points), "c1 held")
    return Chart(panel.name, f"{stage} {panel.name}", [curve], axis="bin" if "time" in axis else axis)


def _head(facts: Facts, parts: Sequence[Part]) -> Markup:
    state = _STATES.get(facts.state, facts.state)
    made = {part.kind: part.use for part in parts if part.use}
    conditions = [part.use for part in parts if part.kind == "conditioner"]
    size = facts.recipe.get("image_size")
    pixels = f"{size[0]}×{size[1]} pixels" if isinstance(size, list) and len(size) == 2 else ""
    said = [
        pixels,
        f"from {made['dataset']}" if "dataset" in made else "",
        "with " + " and ".join(conditions) if conditions else "unconditional" if parts else "",
        " → ".join(made[k] for k in ("first_stage", "denoiser", "sampler") if k in made),
    ]
    missing = None
    if facts.missing:
        missing = tag("p", tag("b", "Not in this report: "), "; ".join(facts.missing), ".", class_="missing")
    return tag(
        "header",
        tag("h1", facts.name, tag("span", state, class_=f"state {'live' if facts.state == RUNS else 'still'}")),
        tag("p", ", ".join(filter(None, said)), class_="lead"),
        tables.short_facts(tables.facts_in_short(facts)),
        missing,
    )


def _foot() -> Markup:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    return tag(
        "footer", f"Made by ldm-run report, ldm-core {VERSION}, {made}. Nothing on this page is loaded from elsewhere."
    )


def _document(title: str, body: Markup, charts: Sequence[Chart], refresh: int) -> str:
    files = resources.files("ldm_plugin_report").joinpath("page")
    style, script = (files.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = "; ".join(
        (
            *("default-src 'none'", "img-src data:", f"style-src {hash_of(style)}", f"script-src {hash_of(script)}"),
            *("base-uri 'none'", "form-action 'none'"),
        )
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", http_equiv="refresh", content=refresh) if refresh else None,
        tag("title", title),
        tag("style", Markup(style)),
    )
    data = data_block([chart.plain() for chart in charts], "charts")
    return f'<!DOCTYPE html>\n<html lang="en">{head}{tag("body", body, data, tag("script", Markup(script)))}</html>\n'
