"""Several runs beside each other: differences of their recipes, curves in one plot, pictures of the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_plugin_report import curves
from ldm_plugin_report.choices import Difference, Part, differences
from ldm_plugin_report.curves import Panel, Points
from ldm_plugin_report.page import figures, tables
from ldm_plugin_report.page.charts import Chart, Curve, grid
from ldm_plugin_report.page.figures import Limits, caption, card, condition
from ldm_plugin_report.page.html import Markup, join, tag
from ldm_plugin_report.pictures import Shown, spread
from ldm_plugin_report.run import Facts

_MOST_POINTS = 250
_MOST_ROWS = 400
_COMPARED = 24  # inputs shown side by side
Section = tuple[str, str, "Markup | None"]


def names(runs: Sequence[Facts]) -> list[str]:
    """The runs' names, equal ones told apart by a number."""
    plain = [facts.name for facts in runs]
    return [f"{name} ({plain[:i].count(name) + 1})" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def head(runs: Sequence[Facts]) -> Markup:
    """The title, and a line on each run's missing things."""
    keys = [tag("span", tag("i", class_=f"dot c{i % 8}"), name, class_="key") for i, name in enumerate(names(runs))]
    lacks = [
        tag("p", tag("b", f"Not in {name}: "), "; ".join(facts.missing), ".", class_="missing")
        for name, facts in zip(names(runs), runs, strict=True)
        if facts.missing
    ]
    return tag("header", tag("h1", f"{len(runs)} runs compared"), tag("p", keys, class_="lead keys"), lacks)


def sections(
    runs: Sequence[Facts], parts: Sequence[Sequence[Part]], limits: Limits, charts: list[Chart]
) -> list[Section]:
    """(id, title, content) of each section."""
    return [
        ("differences", "Differences of the recipes", _differences(runs, parts)),
        ("results", "Results", _results(runs)),
        ("curves", "Curves", _curves(runs, charts)),
        ("samples", "Same inputs side by side", _samples(runs, limits)),
        ("reconstructions", "Reconstructions", _reconstructions(runs, limits)),
    ]


def _differences(runs: Sequence[Facts], parts: Sequence[Sequence[Part]]) -> Markup:
    found = differences(parts)
    if not found:
        return tag("p", "The recipes are equal." if all(parts) else "No recipe to compare.", class_="quiet")
    main = [row for row in found if row.matters]
    rest = [row for row in found if not row.matters]
    more = f"; {len(main) - _MOST_ROWS} more are left out" if len(main) > _MOST_ROWS else ""
    note = f"{len(main)} settings differ{more}. Marked: not the default of its part."
    folded = None
    if rest:
        words = tag("summary", f"{len(rest)} settings of parts that not every run has, at their defaults")
        folded = tag("details", words, _settings(runs, rest[:_MOST_ROWS]))
    return join(tag("p", note, class_="quiet"), _settings(runs, main[:_MOST_ROWS]), folded)


def _settings(runs: Sequence[Facts], rows: Sequence[Difference]) -> Markup:
    cells = [(tag("code", row.key), *(_value(value, row.default) for value in row.values)) for row in rows]
    return tables.table(("setting", *names(runs)), cells, class_="differ")


def _value(value: str, default: str | None) -> Markup:
    if not value:
        return tag("span", "–", class_="quiet none", title="this recipe has no such setting")
    return tag("mark", value) if default is not None and value != default else tag("span", value)


def _results(runs: Sequence[Facts]) -> Markup | None:
    tabled = [{name: (value, note) for name, value, note in tables.facts_in_short(facts)} for facts in runs]
    keys = list(dict.fromkeys(key for each in tabled for key in each))
    rows = [(key, *(_result(each.get(key)) for each in tabled)) for key in keys]
    evaluated = [(names(runs)[i], tables.metrics(facts)) for i, facts in enumerate(runs)]
    more = [tag("details", tag("summary", f"all figures of {name}"), found) for name, found in evaluated if found]
    return join(tables.table(("", *names(runs)), rows), more) if rows else None


def _result(found: tuple[str, str] | None) -> Markup:
    if found is None:
        return tag("span", "–", class_="quiet none")
    return join(tag("b", found[0]), " ", tag("small", found[1], class_="quiet"))


def _curves(runs: Sequence[Facts], charts: list[Chart]) -> Markup | None:
    """One chart for each number of the runs; those of a stage of one run alone are folded away."""
    every = [curves.stages(facts.rows, _MOST_POINTS) for facts in runs]
    order = dict.fromkeys(stage.name for each in every for stage in each)
    out = []
    for stage in order:
        panels = [
            {p.name: p for s in each if s.name == stage for p in s.panels if " by " not in p.name} for each in every
        ]
        found = dict.fromkeys(key for each in panels for key in each)
        made = [_chart(name, stage, [each.get(name) for each in panels], names(runs)) for name in found]
        drawn = grid(made, charts)
        alone = [name for name, each in zip(names(runs), panels, strict=True) if each]
        if len(alone) == 1:
            drawn = tag("details", tag("summary", f"of {alone[0]} alone"), drawn, class_="more")
        out.append(tag("div", tag("h3", stage.replace("_", " ")), drawn))
    return join(out) if out else None


def _chart(name: str, stage: str, panels: Sequence[Panel | None], runs: Sequence[str]) -> Chart:
    lines: list[Curve] = []
    for number, panel in enumerate(panels):
        for line in panel.lines if panel else ():
            marked = line.label in ("held out", "samples")
            label = runs[number] + (f", {line.label}" if marked else "")
            lines.append(Curve(label, line.points, f"c{number % 8}" + " held" * marked))
    log = any(panel.log for panel in panels if panel) and _positive([curve.points for curve in lines])
    return Chart(name, stage, lines, log)


def _positive(lines: Sequence[Points]) -> bool:
    return all(value > 0 for points in lines for _, value in points)


def _samples(runs: Sequence[Facts], limits: Limits) -> Markup | None:
    """Pictures of the same input and seed in a row; if the runs share none, of the same input; else of the same
    number."""
    budget, most = limits.sample_bytes // len(runs), limits.samples * 2
    every = [[one for _, one in figures.loaded(f.samples, most, budget * 2, limits.side).pictures] for f in runs]
    if not any(every):
        return None
    for note, key in (
        ("Same input and same seed.", lambda one: (condition(one), one.words.get("seed", ""))),
        ("The runs share no input with the same seed: same input, each with its own seed.", lambda one: condition(one)),
    ):
        tabled = [_first(pictures, key) for pictures in every]
        shared = [k for k in tabled[0] if k and sum(k in each for each in tabled) > 1]
        if shared:
            chosen = spread(shared, min(_COMPARED, limits.samples))
            return _rows(runs, note, [[each.get(k) for each in tabled] for k in chosen])
    note = "The runs have no input in common: the first samples of each."
    rows = [[each[i] if i < len(each) else None for each in every] for i in range(min(8, max(map(len, every))))]
    return _rows(runs, note, rows, shared=False)


def _first(pictures: Sequence[Shown], key: object) -> dict[object, Shown]:
    found: dict[object, Shown] = {}
    for one in pictures:
        found.setdefault(key(one), one)  # type: ignore[operator]
    return found


def _rows(runs: Sequence[Facts], note: str, rows: Sequence[Sequence[Shown | None]], *, shared: bool = True) -> Markup:
    """A row of cards for each input; `shared`: the pictures of a row have it in common, and it stands above them."""
    made = []
    for number, row in enumerate(rows):
        there = next(one for one in row if one is not None)
        seeds = {one.words.get("seed", "") for one in row if one is not None}
        said = caption(there) or "no input" if shared else f"sample {number + 1}"
        seed = f", seed {next(iter(seeds))}" if len(seeds) == 1 and "" not in seeds else ""
        cells = [
            card(one, name, _below(one, shared, bool(seed)))
            if one is not None
            else tag("figure", tag("div", "–", class_="empty"), tag("figcaption", name), class_="card")
            for one, name in zip(row, names(runs), strict=True)
        ]
        made.append(tag("div", tag("h3", said, tag("small", seed)), tag("div", cells, class_="beside"), class_="row"))
    return join(tag("p", note, class_="quiet"), tag("div", made, class_="rows"))


def _below(one: Shown, shared: bool, seeded: bool) -> str:
    own = "" if shared else caption(one)
    return ", ".join(filter(None, (own, "" if seeded else f"seed {one.words.get('seed', '?')}")))


def _reconstructions(runs: Sequence[Facts], limits: Limits) -> Markup | None:
    found = [
        tag("div", tag("h3", name), figures.sheet_of(facts.reconstructions, limits, "originals and reconstructions"))
        for name, facts in zip(names(runs), runs, strict=True)
        if facts.reconstructions is not None
    ]
    return tag("div", found, class_="beside wide") if found else None
