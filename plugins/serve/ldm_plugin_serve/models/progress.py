"""A run in training, as its folder shows it: curves of its numbers, and its previews. Remote folders too."""

from __future__ import annotations

import json
import math
from typing import Any

from ldm_core import storage
from ldm_core.errors import LDMError
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.models.shelf import Entry

_POINTS = 1000  # of a curve
_MOST_BYTES = 64 << 20
_MOST_PREVIEWS = 2000
_FIXED = ("stage", "step", "time")


def curves(entry: Entry) -> dict[str, Any]:
    """The numbers of ``metrics.jsonl`` by stage and name: steps and values, thinned evenly to a thousand of each."""
    rows: dict[str, dict[str, list[tuple[int, float | None]]]] = {}
    last = 0.0
    for row in _rows(entry):
        stage, step = row.get("stage"), row.get("step")
        if not isinstance(stage, str) or not isinstance(step, int):
            continue
        last = max(last, float(row.get("time") or 0.0))
        for name, value in row.items():
            if name not in _FIXED and isinstance(value, int | float) and not isinstance(value, bool):
                fine = value if math.isfinite(value) else None
                rows.setdefault(stage, {}).setdefault(name, []).append((step, fine))
    stages = {stage: {name: _thin(points) for name, points in names.items()} for stage, names in rows.items()}
    return {"id": entry.id, "ready": entry.ready, "training": _training(entry), "time": last, "stages": stages}


def previews(entry: Entry) -> list[dict[str, Any]]:
    """The previews of a run by number, with their kinds and steps, and the sheet of its samples."""
    return [
        {"n": n, "name": storage.base_name(url), "kind": _kind(url), "step": _step(url)}
        for n, url in enumerate(_pictures(entry))
    ]


def preview(entry: Entry, number: str) -> bytes:
    """The PNG of one preview; :class:`Fault` for none of that number."""
    urls = _pictures(entry)
    if not number.isdecimal() or len(number) > 6 or int(number) >= len(urls):
        raise Fault("there is no such preview", "n", status=404, allowed=[0, len(urls) - 1] if urls else [])
    data = storage.read_bytes(urls[int(number)])
    if not data.startswith(b"\x89PNG"):
        raise Fault("is no PNG", "n", status=404)
    return data


def _pictures(entry: Entry) -> list[str]:
    if not storage.is_folder(entry.url):
        return []
    found = []
    for folder in ("previews", ""):
        place = storage.join(entry.url, folder) if folder else entry.url
        try:
            listed = storage.list_files(place) if storage.is_folder(place) else []
        except LDMError:
            continue
        found += sorted(file.url for file in listed if _is_preview(storage.base_name(file.url), folder))
    return found[:_MOST_PREVIEWS]


def _is_preview(name: str, folder: str) -> bool:
    return name.endswith(".png") if folder else name in ("samples.png", "reconstructions.png")


def _kind(url: str) -> str:
    return storage.base_name(url).partition(".")[0].partition("-")[0]


def _step(url: str) -> int | None:
    digits = storage.base_name(url).partition(".")[0].rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 13 else None


def _rows(entry: Entry) -> list[dict[str, Any]]:
    url = storage.join(entry.url, "metrics.jsonl")
    if not storage.is_folder(entry.url) or not storage.exists(url):
        return []
    if storage.info(url).size > _MOST_BYTES:
        raise Fault("the run has more numbers than are read", "id", status=413)
    found = []
    for line in storage.read_bytes(url).splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last one, while it is written
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _thin(points: list[tuple[int, float | None]]) -> dict[str, list[Any]]:
    stride = -(-len(points) // _POINTS)
    kept = points[::stride]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}


def _training(entry: Entry) -> bool:
    """True of a folder held by a run, as far as its lock tells."""
    return storage.is_folder(entry.url) and storage.exists(storage.join(entry.url, "lock"))
