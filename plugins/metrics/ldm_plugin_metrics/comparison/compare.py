"""Several evaluations side by side: their figures, the differences from the first, and how their protocols differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import ConfigError, clean
from ldm_plugin_metrics.evaluation.figures import LEVEL
from ldm_plugin_metrics.evaluation.protocol import FILE, FORMAT, OTHERS

_REFERENCE = ("fingerprint", "size", "channels", "fit", "filter", "source", "pictures")
_SAID = {("guidance", "use"), ("guidance", "scale"), ("sampler", "use"), ("time_grid", "use")}
_TOLD: Sequence[str] = (
    "pictures",
    "size",
    "sampler",
    "steps",
    "time_grid",
    "guidance",
    "scale",
    "labels",
    "seeds",
    "precision",
)


def read(place: str) -> dict[str, Any]:
    """The record in a folder, or in a file. ConfigError if it is none."""
    url = place if place.endswith(".json") else storage.join(place, FILE)
    if not storage.exists(url):
        raise ConfigError(f"{storage.shown(place)}: holds no {FILE}; give the folder of an evaluation")
    found = parse_json(storage.read_text(url), storage.shown(url))
    if not isinstance(found, dict) or found.get("kind") != "evaluation" or not _whole(found):
        raise ConfigError(f"{storage.shown(url)}: is no record of an evaluation")
    if found.get("format") != FORMAT:
        raise ConfigError(f"{storage.shown(url)}: format {found.get('format')!r}; this version reads {FORMAT}")
    return found


def compare(places: Sequence[str]) -> dict[str, Any]:
    """The figures of several records by metric and value, each beside its difference from the first record's."""
    records = [read(place) for place in places]
    names = _names(places)
    figures = []
    for key in dict.fromkeys(key for record in records for key in _values(record)):
        found = [_values(record).get(key) for record in records]
        first = next(each for each in found if each is not None)
        figures.append(
            {
                "metric": key[0],
                "name": key[1],
                "label": first["label"],
                "higher_is_better": first["higher_is_better"],
                "values": [
                    each and {k: each[k] for k in ("value", "interval", "floor") if k in each} for each in found
                ],
                "differences": [None, *(_difference(records, found, i) for i in range(1, len(records)))],
            }
        )
    lines = [record["line"] for record in records]
    return {"evaluations": names, "lines": lines, "figures": figures, "notes": list(_notes(names, records))}


def _whole(record: Mapping[str, Any]) -> bool:
    """True if a record has its parts, each of its type."""
    metrics, sets = record.get("metrics"), record.get("sets")
    if not isinstance(metrics, list) or not isinstance(sets, dict) or not isinstance(record.get("line"), str):
        return False
    if not all(isinstance(each, dict) for each in sets.values()):
        return False
    for metric in metrics:
        if not isinstance(metric, dict) or not isinstance(metric.get("values"), dict):
            return False
        if not all(isinstance(metric.get(key), str) for key in ("metric", "label", "source", "against", "of")):
            return False
        if not all(isinstance(each, dict) and _are_numbers([each.get("value")]) for each in metric["values"].values()):
            return False
        lists = [each[k] for each in metric["values"].values() for k in ("interval", "draws") if k in each]
        floors = [each["floor"] for each in metric["values"].values() if "floor" in each]
        if not all(isinstance(each, list) and _are_numbers(each) for each in [*lists, floors]):
            return False
        if any("interval" in each and len(each["interval"]) != 2 for each in metric["values"].values()):
            return False
    return True


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _values(record: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for metric in record["metrics"]:
        for name, value in metric["values"].items():
            about = {"label": metric["label"], "source": metric["source"], "against": metric["against"]}
            found[metric["metric"], name] = {"higher_is_better": False, **value, **about, "of": metric["of"]}
    return found


def _difference(
    records: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any] | None], index: int
) -> dict[str, Any] | None:
    """The difference of a figure from the first record's; its interval by paired draws, if both have as many."""
    base, other = found[0], found[index]
    if base is None or other is None:
        return None
    if why := _incomparable(records[0], records[index], base, other):
        return {"incomparable": why}
    value = other["value"] - base["value"]
    made: dict[str, Any] = {"value": value}
    draws = [each.get("draws", []) for each in (base, other)]
    if draws[0] and len(draws[0]) == len(draws[1]):
        apart = np.subtract(draws[1], draws[0])
        span = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - apart.mean() + value
        made |= {"interval": span.tolist(), "apart": bool(span[0] > 0 or span[1] < 0)}
    return made


def _incomparable(
    first: Mapping[str, Any], other: Mapping[str, Any], base: Mapping[str, Any], value: Mapping[str, Any]
) -> str:
    """Say that two figures measure different things; "" if they may be compared."""
    if base["source"] != value["source"]:
        return f"measured by '{clean(base['source'], 120)}' and by '{clean(value['source'], 120)}'"
    if base["against"] != value["against"]:
        return "compared with different kinds of sets"
    name = base["against"] or {"reconstructions": "originals", "data": "data"}.get(base["of"], "")
    # two folders of pairs have their originals as the reference
    theirs = [record["sets"].get(name) or record["sets"].get("reference", {}) for record in (first, other)]
    unlike = [key for key in _REFERENCE if theirs[0].get(key) != theirs[1].get(key)] if name else []
    return f"the {name} differs in {', '.join(unlike)}" if unlike else ""


def _names(places: Sequence[str]) -> list[str]:
    """A short name each; the whole place if two agree."""
    short = [storage.base_name(storage.shown(each.removesuffix(FILE)).rstrip("/")) or each for each in places]
    return [name if short.count(name) == 1 else storage.shown(place) for name, place in zip(short, places, strict=True)]


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """The told settings of a set, and those of its parts by ``part.key``."""
    found = {key: about[key] for key in _TOLD if key in about}
    parts = about.get("parts")
    for part, settings in parts.items() if isinstance(parts, dict) else ():
        for key, value in settings.items() if isinstance(settings, dict) else [("", settings)]:
            if (part, key) not in _SAID:
                found[f"{part}.{key}".rstrip(".")] = value
    return found


def _notes(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each setting of the pictures that differs, and for other machines."""
    notes = []
    for name in dict.fromkeys(name for record in records for name in record["sets"]):
        sets = [record["sets"].get(name) for record in records]
        if name in OTHERS or any(each is None for each in sets):
            continue
        flat = [_flat(each) for each in sets if each is not None]
        for key in dict.fromkeys(key for each in flat for key in each):
            values = [each.get(key) for each in flat]
            if any(value != values[0] for value in values):
                said = ", ".join(f"{n}: {clean(v, 60)}" for n, v in zip(names, values, strict=True))
                notes.append(f"{name} differ in {key} ({said})")
    machines = [record.get("hardware") for record in records]
    if any(machine != machines[0] for machine in machines):
        notes.append("measured on different machines, or with different versions of torch")
    return notes
