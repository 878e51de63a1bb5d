"""The tables of a page: recipe, parts, figures, times and warnings of a run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ldm_core.cli.progress import duration, memory
from ldm_plugin_report.choices import Part, words
from ldm_plugin_report.curves import is_number
from ldm_plugin_report.page.html import Child, Markup, join, tag
from ldm_plugin_report.run import Facts, Weights

_NO_FIGURES = ("stage", "step", "time", "evaluated_images", "held_out")
_TITLES = {"first_stage": "first stage", "recipe": "the recipe itself"}
_MOST_WARNINGS, _MOST_CLASSES = 200, 60


def table(head: Sequence[str], rows: Iterable[Sequence[Child]], **attributes: Any) -> Markup:
    """A table; one too wide scrolls by itself. Cells know their column's name, for narrow screens."""
    body = [
        tag("tr", [tag("td", cell, data_head=name or None) for name, cell in zip(head, row, strict=True)])
        for row in rows
    ]
    columns = tag("tr", [tag("th", name, scope="col") if name else tag("td") for name in head])
    return tag("div", tag("table", tag("thead", columns), tag("tbody", body), **attributes), class_="scroll")


def large(count: float) -> str:
    """A number of values: ``4.77 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f}"


def size_in_words(count: int) -> str:
    """Bytes: ``19.1 MB``."""
    return f"{large(count)}B" if count >= 1000 else f"{count} B"


def number(value: object) -> str:
    """A figure with four digits."""
    return f"{value:.4g}" if is_number(value) else "not finite" if value is None else words(value, 60)


# ------------------------------------------------------------------------------------------------------- summary


def stage_rows(facts: Facts, stage: str) -> list[Mapping[str, Any]]:
    """The rows of a stage."""
    return [row for row in facts.rows if row["stage"] == stage]


def last(facts: Facts, stage: str) -> Mapping[str, Any]:
    """The last row of a stage, empty without one."""
    rows = stage_rows(facts, stage)
    return rows[-1] if rows else {}


def seconds_of(facts: Facts, stage: str) -> float:
    """Seconds of a stage: by the run's diary, else between its measurements without long pauses."""
    if (told := facts.events.seconds.get(stage)) is not None:
        return told
    times = [float(row["time"]) for row in stage_rows(facts, stage) if is_number(row.get("time"))]
    gaps = [after - before for before, after in pairwise(times) if after > before]
    if not gaps:
        return 0.0
    pause = max(60.0, 20 * statistics.median(gaps))
    return sum(gap for gap in gaps if gap <= pause)


def values_of(facts: Facts, stage: str, name: str) -> list[float]:
    """The finite values of a number over a stage's steps."""
    return [float(row[name]) for row in stage_rows(facts, stage) if is_number(row.get(name))]


def trained_stages(facts: Facts) -> list[str]:
    """The stages with measured speed, in their order."""
    found = dict.fromkeys(row["stage"] for row in facts.rows if "images_per_second" in row)
    return sorted(found, key=lambda name: (name != "first_stage", name != "denoiser", name))


def facts_in_short(facts: Facts) -> list[tuple[str, str, str]]:
    """The most asked-for numbers: name, value, note."""
    found = []
    for stage in trained_stages(facts):
        step = int(last(facts, stage)["step"])
        title, speed = stage.replace("_", " "), values_of(facts, stage, "images_per_second")
        of = _steps(facts, stage)
        note = [f"of {of:,} steps" if of and of != step else "steps", _took(seconds_of(facts, stage))]
        found.append((title, f"{step:,}", ", ".join(filter(None, note))))
        if speed and stage == trained_stages(facts)[-1]:
            found.append(("speed", f"{statistics.median(speed):.3g}", f"images/s, {title}"))
    if is_number(loss := last(facts, "denoiser_validation").get("val_loss")):
        found.append(("held-out loss", number(loss), f"at step {last(facts, 'denoiser_validation')['step']:,}"))
    scores = scores_of(facts)
    if is_number(scores.get("psnr")):
        ssim = f", SSIM {scores['ssim']:.3f}" if is_number(scores.get("ssim")) else ""
        found.append(("reconstruction", f"{scores['psnr']:.2f} dB", f"PSNR{ssim}"))
    peaks = [value for stage in trained_stages(facts) for value in values_of(facts, stage, "peak_memory_mib")]
    if peaks:
        found.append(("peak memory", memory(max(peaks)), "of one process"))
    counts = {"model": facts.model, "first stage": facts.stage}
    known = {name: sum(each.parameters.values()) for name, each in counts.items() if each}
    if known:
        found.append(
            ("parameters", large(sum(known.values())), " + ".join(f"{k} {large(v)}" for k, v in known.items()))
        )
    return found


def scores_of(facts: Facts) -> Mapping[str, Any]:
    """The first stage's scores: of the run's rows, else of its weights' header."""
    found = last(facts, "first_stage_evaluation")
    header = facts.stage.extra.get("numbers") if facts.stage else None
    return found or (header if isinstance(header, dict) else {})


def _steps(facts: Facts, stage: str) -> int:
    section = facts.recipe.get("first_stage_trainer" if stage == "first_stage" else "trainer")
    steps = section.get("steps") if isinstance(section, Mapping) else None
    return steps if isinstance(steps, int) else 0


def _took(seconds: float) -> str:
    return f"in {duration(seconds)}" if seconds >= 1 else ""


def short_facts(rows: Iterable[tuple[str, str, str]]) -> Markup:
    """The numbers as tiles."""
    tiles = [tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", note))) for name, value, note in rows]
    return tag("dl", tiles, class_="tiles")


# ------------------------------------------------------------------------------------------------- figures, times


def metrics(facts: Facts) -> Markup | None:
    """Every figure with the way it was measured."""
    rows: list[Sequence[Child]] = []
    scores = scores_of(facts)
    held = "held-out" if scores.get("held_out") else "training"
    for name, value in scores.items():
        if name not in _NO_FIGURES:
            count = number(scores.get("evaluated_images"))
            rows.append((_named(name), number(value), f"first stage, reconstructions of {count} {held} pictures"))
    found = last(facts, "denoiser_validation")
    if found:
        way = f"mean squared error of the prediction on held-out pictures, averaged weights, step {found['step']:,}"
        rows += [("held-out loss", number(found[k]), way) for k in ("val_loss",) if k in found]
    measured = last(facts, "denoiser_metrics")
    trainer = facts.recipe.get("trainer")
    few = trainer.get("evaluate_images") if isinstance(trainer, Mapping) else None
    way = f"{few or 'a few'} samples at step {measured.get('step', 0):,}: compares steps of this run"
    rows += [(_named(k), number(v), way) for k, v in measured.items() if k not in _NO_FIGURES]
    lines = []
    for each in facts.evaluations:
        rows += _evaluated(facts, each)
        lines.append(tag("p", facts.public(each.get("line", ""), 3000), class_="protocol"))
    if not rows:
        return None
    return join(table(("figure", "value", "how it was measured"), rows), lines)


def _evaluated(facts: Facts, found: Mapping[str, Any]) -> list[Sequence[Child]]:
    rows: list[Sequence[Child]] = []
    metrics = found.get("metrics")
    for row in metrics if isinstance(metrics, list) else []:
        values = row.get("values") if isinstance(row, Mapping) else None
        for name, about in (values if isinstance(values, Mapping) else {}).items():
            about = about if isinstance(about, Mapping) else {}
            interval, floor = about.get("interval"), about.get("floor")
            said = number(about.get("value"))
            if isinstance(interval, list) and len(interval) == 2:
                said += f" [{number(interval[0])}, {number(interval[1])}]"
            way = f"{number(row.get('pictures'))} {words(row.get('of'), 60)}"
            if row.get("against"):
                way += f" against {number(row.get('against_pictures'))} {words(row.get('against'), 60)} pictures"
            way += f"; two halves of these: {number(floor)}" if is_number(floor) else ""
            better = " ↑" if about.get("higher_is_better") else " ↓"
            rows.append((facts.public(name, 80) + better, said, f"{way}; {facts.public(row.get('source', ''), 300)}"))
    return rows


def _named(name: str) -> str:
    known = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "features": "feature distance ↓"}
    if name.startswith("fd_"):
        return f"Fréchet distance, {name[3:].replace('_', ' ')} ↓"
    return known.get(name, name.replace("_", " "))


def _titled(part: Part) -> str:
    """A part's key in words; a name that a recipe gives, such as of a conditioner, as it is."""
    key, dot, name = part.key.partition(".")
    return _TITLES.get(part.key, key.replace("_", " ") + dot + name)


def times(facts: Facts) -> Markup | None:
    """Steps, time, speed and memory of each stage."""
    rows: list[Sequence[Child]] = []
    for stage in trained_stages(facts):
        speed, wait, peak = (values_of(facts, stage, n) for n in ("images_per_second", "data_wait", "peak_memory_mib"))
        rows.append(
            (
                stage.replace("_", " "),
                f"{last(facts, stage)['step']:,}",
                duration(seconds_of(facts, stage)),
                f"{statistics.median(speed):.3g}" if speed else "",
                f"{statistics.median(wait):.1%}" if wait else "",
                memory(max(peak)) if peak else "",
            )
        )
    others = [(s, t) for s, t in facts.events.seconds.items() if s not in trained_stages(facts) and t >= 1]
    rows += [(words(s, 40).replace("_", " "), "", duration(t), "", "", "") for s, t in others]
    if not rows:
        return None
    head = ("stage", "steps", "time", "images/s (median)", "waits for data", "peak memory")
    if facts.events.seconds:
        note = f"Times by the run's diary, over {facts.events.starts} start(s)."
    else:
        note = "Times between the first and the last measurement, without long pauses."
    return join(table(head, rows), tag("p", note, class_="quiet"), _machine(facts))


def _machine(facts: Facts) -> Markup | None:
    known = facts.events.machine
    order = ("device", "devices", "processor", "cores", "threads", "torch", "python", "system")
    said = ", ".join(f"{key} {words(known[key], 100)}" for key in order if key in known)
    return tag("p", f"Machine: {said}.", class_="quiet") if said else None


# ------------------------------------------------------------------------------------------------------- warnings


def warnings_met(facts: Facts) -> Markup:
    """Warnings of the run, unreadable examples, and losses of no finite value."""
    rows = []
    for each in facts.events.warnings[-_MOST_WARNINGS:]:
        often = tag("span", f" {each.times} times", class_="quiet") if each.times > 1 else None
        rows.append(tag("li", facts.public(each.text, 1000), often, class_="warn"))
    lost = sum(1 for row in facts.rows if row.get("loss", 0) is None)
    if lost:
        rows.append(tag("li", f"the loss was not finite in {lost} measured step(s)", class_="warn"))
    if facts.bad_count:
        listed = [tag("li", facts.public(line, 300)) for line in facts.bad]
        more = f", the first {len(facts.bad)} of them" if facts.bad_count > len(facts.bad) else ""
        head = tag("summary", f"{facts.bad_count:,} unreadable example(s) were passed over{more}")
        rows.append(tag("li", tag("details", head, tag("ul", listed)), class_="warn"))
    if not facts.events.there:
        rows.append(
            tag(
                "li",
                "This run kept none of its messages: the observer ",
                tag("code", "report"),
                " does, in a run with ",
                tag("code", "observers=[curves,report]"),
                class_="quiet",
            )
        )
    elif not rows:
        rows.append(tag("li", "none"))
    return join(tag("ul", rows, class_="plain"), _log(facts))


def _log(facts: Facts) -> Markup | None:
    said = [tag("li", facts.public(each.text, 1000)) for each in facts.events.messages if each.level != "warning"]
    return tag("details", tag("summary", f"{len(said)} other messages of the run"), tag("ul", said)) if said else None


# --------------------------------------------------------------------------------------------------- recipe, parts


def recipe(parts: Sequence[Part]) -> Markup | None:
    """Every setting; those unlike the defaults are marked, the others are folded away."""
    if not parts:
        return None
    changed = sum(choice.changed for part in parts for choice in part.choices)
    note = f"{changed} settings differ from the defaults of their parts and are marked."
    return join(tag("p", note, class_="quiet"), tag("div", [_part(part) for part in parts], class_="recipe"))


def _part(part: Part) -> Markup:
    head = tag(
        "h3", _titled(part), tag("b", f" {part.use}") if part.use else None, tag("small", part.by) if part.by else None
    )
    shown = [each for each in part.choices if each.changed or each.default is None]
    rest = [each for each in part.choices if not (each.changed or each.default is None)]
    rows = [
        tag(
            "tr",
            tag("th", each.key or "value", scope="row"),
            tag("td", tag("mark", each.value) if each.changed else each.value),
            tag("td", f"default {each.default}" if each.changed else "", class_="quiet"),
        )
        for each in shown
    ]
    folded = None
    if rest:
        lines = [tag("tr", tag("th", each.key, scope="row"), tag("td", each.value), tag("td")) for each in rest]
        head_of = tag("summary", f"{len(rest)} as by default")
        folded = tag("details", head_of, tag("table", tag("tbody", lines), class_="settings"))
    body = tag("table", tag("tbody", rows), class_="settings") if rows else None
    return tag("section", head, body, folded, class_="part")


def parts_table(facts: Facts, parts: Sequence[Part]) -> Markup | None:
    """The components with their distributions, and the versions behind the weights."""
    rows = [
        (_titled(part), tag("b", part.use), part.by or "not installed here", part.summary) for part in parts if part.use
    ]
    made = table(("part", "component", "brought by", "in a line"), rows) if rows else None
    weights = [
        _weights(name, each)
        for name, each in (("first stage", facts.stage), ("model", facts.model), ("best model", facts.best))
        if each
    ]
    files = table(("weights", "component", "parameters", "file", "trained with"), weights) if weights else None
    return join(made, files) if made or files else None


def _weights(name: str, found: Weights) -> Sequence[Child]:
    few = dict(sorted(found.parameters.items(), key=lambda item: -item[1])[:6])
    by_part = ", ".join(f"{part} {large(count)}" for part, count in few.items() if count >= 1000)
    versions = ", ".join(f"{k} {v}" for k, v in list(found.versions.items())[:40])
    presets = f"; presets {', '.join(found.presets)}" if found.presets else ""
    total = large(sum(found.parameters.values()))
    return (
        name,
        found.use,
        tag("span", tag("b", total), f" ({by_part})"),
        size_in_words(found.size) + presets,
        versions,
    )


def data(facts: Facts, parts: Sequence[Part]) -> Markup | None:
    """The data: the recipe's names, its classes, and the data sheet if the run has one."""
    rows: list[Sequence[Child]] = []
    for part in parts:
        if part.kind == "dataset":
            own = ", ".join(f"{c.key} {c.value}" for c in part.choices if c.changed or c.default is None)
            rows.append((_titled(part), f"{part.use}: {own}" if own else part.use))
    rows += [
        ("said by the run", facts.public(m.text[5:].strip(), 600))
        for m in facts.events.messages
        if m.text.startswith("data:")
    ]
    names = facts.model.extra.get("class_names") if facts.model else None
    for key, classes in (names if isinstance(names, dict) else {}).items():
        more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
        listed = ", ".join(facts.public(c, 60) for c in classes[:_MOST_CLASSES])
        rows.append((f"{facts.public(key, 60).replace('_', ' ')}: {len(classes)}", listed + more))
    sheet = facts.data.get("parts")
    for each in sheet if isinstance(sheet, list) else []:
        if isinstance(each, Mapping):
            rows.append((f"data sheet: {facts.public(each.get('title', ''), 80)}", _sheet_line(facts, each)))
    return table(("", ""), rows, class_="facts") if rows else None


def _sheet_line(facts: Facts, part: Mapping[str, Any]) -> str:
    said = [f"{number(part.get('examples'))} pictures"]
    if is_number(part.get("held_out")):
        said.append(f"{number(part['held_out'])} held out")
    pictures = part.get("pictures")
    sizes = pictures.get("sizes") if isinstance(pictures, Mapping) else None
    for each in (sizes if isinstance(sizes, list) else [])[:3]:
        if isinstance(each, Mapping):
            said.append(f"{number(each.get('width'))}x{number(each.get('height'))}")
    keys = part.get("keys")
    names = [k.get("name", "") for k in (keys if isinstance(keys, list) else [])[:20] if isinstance(k, Mapping)]
    said.append("keys " + ", ".join(facts.public(n, 40) for n in names))
    if unreadable := part.get("unreadable"):
        said.append(f"{len(unreadable) if isinstance(unreadable, list) else number(unreadable)} unreadable")
    return "; ".join(said)
