"""A run in training, as its folder shows it: curves of its numbers, and its previews. Remote folders too."""

from __future__ import annotations

import math
from typing import Any

from ldm_core import storage
from ldm_core.config import documents
from ldm_core.errors import LDMError
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.training.folder.metrics import rows_of
from ldm_core.training.folder.state import RUNS, state_of
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.models.shelf import Entry

_POINTS = 1000  # of a curve
_MOST_BYTES = 64 << 20
_MOST_PREVIEWS = 2000
_FIXED = ("stage", "step", "time")
_TRAINERS = {"first_stage": "first_stage_trainer", "denoiser": "trainer"}


def curves(entry: Entry) -> dict[str, Any]:
    """The numbers of ``metrics.jsonl`` by stage, the first to begin first, and name, of steps made again the last ones:
    steps and values, thinned evenly to a thousand of each; the run's state, and the steps that its stages shall have.
    """
    rows: dict[str, dict[str, list[tuple[int, float | None]]]] = {}
    begun: dict[str, float] = {}
    last = 0.0
    for row in _rows(entry):
        stage, step = row["stage"], row["step"]
        time = row.get("time")
        if isinstance(time, int | float) and math.isfinite(time):
            begun.setdefault(stage, float(time))
            last = max(last, float(time))
        for name, value in row.items():
            if name not in _FIXED and isinstance(value, int | float) and not isinstance(value, bool):
                fine = value if math.isfinite(value) else None
                rows.setdefault(stage, {}).setdefault(name, []).append((step, fine))
    ordered = sorted(rows.items(), key=lambda item: begun.get(item[0], 0.0))
    stages = {stage: {name: _thin(points) for name, points in names.items()} for stage, names in ordered}
    state = state_of(entry.url) if storage.is_folder(entry.url) else ""
    told = {"id": entry.id, "ready": entry.ready, "training": state == RUNS, "state": state, "steps": _steps(entry)}
    return {**told, "time": last, "stages": stages, "weights_sha256": entry.sha256}


def _steps(entry: Entry) -> dict[str, int]:
    """The steps of the recipe's trainers by stage."""
    url = storage.join(entry.url, RECIPE_FILE)
    try:
        recipe = documents.parse_yaml(storage.read_bytes(url), RECIPE_FILE) if storage.is_folder(entry.url) else {}
    except LDMError:  # a model without its recipe, or half-written
        return {}
    sections = {stage: recipe.get(key) for stage, key in _TRAINERS.items()} if isinstance(recipe, dict) else {}
    found = {stage: one.get("steps") for stage, one in sections.items() if isinstance(one, dict)}
    return {stage: steps for stage, steps in found.items() if isinstance(steps, int)}


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
        found += [file.url for file in listed if _is_preview(storage.base_name(file.url), folder)]
    return sorted(found, key=_turn)[:_MOST_PREVIEWS]


def _turn(url: str) -> tuple[bool, float, str]:
    """The first stage's pictures before the denoiser's, each by their steps, and those of its end last."""
    step = _step(url)
    return _kind(url) == "samples", math.inf if step is None else step, url


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
    return rows_of(line.decode("utf-8", "replace") for line in storage.read_bytes(url).split(b"\n"))


def _thin(points: list[tuple[int, float | None]]) -> dict[str, list[Any]]:
    stride = -(-len(points) // _POINTS)
    kept = points[::stride]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}
