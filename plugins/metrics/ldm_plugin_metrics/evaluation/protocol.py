"""The record of an evaluation: the making of its figures, as JSON and as a line for a paper."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ldm_core import storage
from ldm_core.catalog.release import VERSION
from ldm_plugin_metrics.evaluation.asked import Asked
from ldm_plugin_metrics.evaluation.figures import Figure

FILE = "evaluation.json"
FORMAT = 1
OTHERS = ("reference", "training", "originals")
"""Sets that others are compared with."""
_WORDS = {"reference": "reference pictures", "training": "training pictures", "data": "pictures of the data"}


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine: processor, threads, accelerator, and the versions of its arithmetic."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    except OSError:
        pass
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": gpu or device.type,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def row(asked: Asked, figure: Figure, own: str, counts: tuple[int, int | None], reference: str) -> dict[str, Any]:
    """A metric's figures with all of its own."""
    higher = asked.config.higher_is_better
    values = {}
    for name, value in figure.values.items():
        found: dict[str, Any] = {"value": value, "higher_is_better": name in higher}
        if figure.floor:
            found["floor"] = figure.floor[name]
        if (span := figure.interval(name)) is not None:
            found |= {"interval": list(span), "draws": figure.draws[name]}
        values[name] = found
    return {
        "metric": asked.name,
        "label": asked.label,
        "source": asked.source,
        "settings": asked.plain(),
        "distribution": asked.called.distribution,
        "of": own,
        "pictures": counts[0],
        "against": reference,
        "against_pictures": counts[1],
        "floor_pictures": figure.floor_pictures,
        "values": values,
    }


def document(
    sets: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole record: the sets of pictures by name, a row a metric, and `more`."""
    head = {"format": FORMAT, "kind": "evaluation", "ldm_core": VERSION}
    whole = {**head, **more, "sets": {name: dict(about) for name, about in sets.items()}, "metrics": list(rows)}
    return {**whole, "line": line(whole)}


def write(folder: str, found: Mapping[str, Any]) -> str:
    """Write the record, whole or not at all; its URL."""
    url = storage.join(folder, FILE)
    storage.atomic_write(url, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return url


def line(found: Mapping[str, Any]) -> str:
    """One sentence of figures and protocol, for a paper."""
    figures = [_figure(metric, name, value) for metric in found["metrics"] for name, value in metric["values"].items()]
    sets = found["sets"]
    made = [_of_set(name, about) for name, about in sets.items() if name not in OTHERS]
    seen = [_of_set(name, about) for name, about in sets.items() if name in OTHERS]
    weights = found["model"].get("weights") or found["model"].get("first_stage", "")
    sources = dict.fromkeys(metric["source"] for metric in found["metrics"])
    labels = [
        f"{', '.join(each['metric'] for each in found['metrics'] if each['source'] == source)}: {source}"
        for source in sources
    ]
    parts = [
        ", ".join(figures),
        "; ".join(made) + (f", against {'; '.join(seen)}" if seen else ""),
        *([f"weights {weights[:12]}"] if weights else []),
        *labels,
        f"ldm-core {found['ldm_core']}, torch {found['hardware']['torch']}, {found['hardware']['device']}",
    ]
    return ". ".join(part for part in parts if part) + "."


def _figure(metric: Mapping[str, Any], name: str, value: Mapping[str, Any]) -> str:
    text = f"{_title(metric, name)} {value['value']:.4g}"
    if "interval" in value:
        text += " [{:.4g}, {:.4g}]".format(*value["interval"])
    if "floor" in value:
        halves = f"two halves of the {metric['against']}, {metric['floor_pictures']:,} pictures each"
        text += f" ({halves}: {value['floor']:.4g})"
    return text


def _title(metric: Mapping[str, Any], name: str) -> str:
    return (
        name
        if name == metric["metric"] or metric["metric"] == metric["settings"]["use"]
        else f"{metric['metric']}.{name}"
    )


def _of_set(name: str, about: Mapping[str, Any]) -> str:
    size = "x".join(map(str, about["size"])) if about.get("size") else ""
    text = f"{about['pictures']:,} {_WORDS.get(name, name)}" if about.get("pictures") else _WORDS.get(name, name)
    text += f" of {size} pixels" if size else ""
    if name == "samples":
        scale = f" at {about['scale']:g}" if about.get("scale") is not None else ""
        text += (
            f" ({about['sampler']}, {about['steps']} steps, {about['time_grid']} grid, guidance {about['guidance']}"
            f"{scale}, {about['precision']}, seeds {about['seeds'][0]} to {about['seeds'][1]}, labels: "
            f"{about['labels']})"
        )
    elif about.get("what"):
        text += f" ({about['what']}" + (f", {about['filter']} {about['fit']}" if about.get("filter") else "") + ")"
    return text
