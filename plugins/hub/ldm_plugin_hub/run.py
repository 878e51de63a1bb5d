"""The facts of a finished run for its model card, and the files beside it. Imports no torch.

A run's folder may be somebody else's: files go by a run's own names, sizes are bounded, and no path of the
run or its data is written.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from PIL import Image

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.data.images import picture_size, png_bytes, to_planes
from ldm_core.data.picture_levels import picture_form
from ldm_core.errors import ConfigError, DataError, clean
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.recipe.keys import renewed
from ldm_core.recipe.places import described, handed_on

SHEET, DATA, DATA_SHEET, FIGURES = "samples.png", "datasheet.json", "datasheet.png", "evaluation.json"
_MOST_TEXT, _MOST_PICTURE = 16 << 20, 64 << 20
MOST_SAMPLES = 64
_ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\w+://|\\\\)")
_DATA = re.compile(r"^hf://datasets/([\w.-]+/[\w.-]+)")


@attrs.frozen
class Sample:
    """A picture of the run: its name in the repository, its bytes, and the text in it."""

    name: str
    data: bytes
    text: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Published:
    """The published content of the run `url`. `weights`: name -> URL, copied as they are; `files`: name -> bytes."""

    url: str
    recipe: Mapping[str, Any]
    weights: Mapping[str, str]
    files: Mapping[str, bytes]
    use: str
    steps: int
    versions: Mapping[str, str]
    parameters: Mapping[str, int]
    class_names: Mapping[str, Sequence[str]]
    samples: Sequence[Sample]
    figures: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    data_ids: Sequence[str]
    places: Sequence[str]
    """Settings in the headers of the weights with a place of this machine."""


def read(url: str, catalog: Catalog, evaluations: Sequence[str] = ()) -> Published:
    """Read the run. ConfigError or CheckpointError if it is none, or not finished; DataError for damaged
    figures."""
    shown = storage.shown(url)
    if url.endswith(".safetensors"):
        raise ConfigError(f"{shown}: is a file; give the run's folder, with its first stage and recipe")
    model = artifacts.find(url, artifacts.MODEL_FILE)
    header = artifacts.read_header(model, "model")
    stage = artifacts.find(url, artifacts.STAGE_FILE)
    artifacts.require_first_stage(header, stage)
    weights = {artifacts.MODEL_FILE: model, artifacts.STAGE_FILE: stage} | _adapters(url)
    samples = _samples(url)
    files = {f"samples/{each.name}": each.data for each in samples}
    for name in (SHEET, DATA_SHEET):
        if (picture := _picture(storage.join(url, name))) is not None:
            files[name] = picture
    figures = _figures(url, evaluations)
    if figures:
        files[FIGURES] = _json(figures[0] if len(figures) == 1 else {"evaluations": list(figures)})
    data = _document(storage.join(url, DATA)) if storage.exists(storage.join(url, DATA)) else {}
    if data:
        data = without_places(data)
        files[DATA] = _json(data)
    plain = _recipe(url) or header.config
    files[RECIPE_FILE] = documents.dump_yaml(described(plain, catalog)).encode()
    names = header.extra.get("class_names") or {}
    return Published(
        url=url,
        recipe=renewed(plain),
        weights=weights,
        files=files,
        use=header.use,
        steps=int(header.extra.get("steps") or 0),
        versions=header.versions,
        parameters={name: _parameters(place) for name, place in weights.items()},
        class_names=names if isinstance(names, Mapping) else {},
        samples=samples,
        figures=figures,
        data=data,
        data_ids=list(dict.fromkeys(m[1] for text in _texts(plain.get("dataset")) if (m := _DATA.match(text)))),
        places=_places(header.config),
    )


def _adapters(url: str) -> dict[str, str]:
    """The run's adapters, by the names of their files."""
    folder = storage.join(url, artifacts.ADAPTERS)
    if not storage.is_folder(folder):
        return {}
    there = {storage.base_name(file.url): file.url for file in storage.list_files(folder) if not file.irregular}
    named = {name: place for name, place in there.items() if re.fullmatch(r"\w+\.safetensors", name)}
    return {f"{artifacts.ADAPTERS}/{name}": named[name] for name in sorted(named)}


def _recipe(url: str) -> Mapping[str, Any]:
    place = storage.join(url, RECIPE_FILE)
    if not storage.exists(place):
        return {}
    found = documents.parse_yaml(storage.read_text(place, most=_MOST_TEXT), storage.shown(place))
    return found if isinstance(found, Mapping) else {}


def _parameters(url: str) -> int:
    total = 0
    for shape in artifacts.shapes(url).values():
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def _samples(url: str) -> list[Sample]:
    """The first samples, in order, as far as they are PNG with a seed."""
    folder = storage.join(url, "samples")
    if not storage.is_folder(folder):
        return []
    files = {storage.base_name(f.url): f.url for f in storage.list_files(folder) if not f.irregular}
    found: list[Sample] = []
    for name in sorted(name for name in files if re.fullmatch(r"\d{4,15}\.png", name))[:MOST_SAMPLES]:
        data = _picture(files[name])
        if data is not None and "seed" in (text := _text_of(data)):
            found.append(_without_folders(Sample(name, data, text)))
    return found


def _without_folders(sample: Sample) -> Sample:
    """A sample of an older version had the paths of local files in its recipe; the pixels stay as they are."""
    if "recipe" not in sample.text:
        return sample
    try:
        recipe = documents.parse_json(sample.text["recipe"], sample.name, DataError)
    except DataError:
        return sample
    if not isinstance(recipe, Mapping) or (named := handed_on(recipe)) == recipe:
        return sample
    text = {**sample.text, "recipe": json.dumps(named, ensure_ascii=False)}
    with Image.open(io.BytesIO(sample.data)) as picture:
        pixels = to_planes(picture.convert("L" if picture.mode == "L" else "RGB"))
    return Sample(sample.name, png_bytes(pixels, text), text)


def _picture(url: str) -> bytes | None:
    """A PNG of the run; None if there is none, or something else of its name."""
    if not storage.exists(url):
        return None
    data = storage.read_bytes(url, most=_MOST_PICTURE)
    return data if picture_size(data) and (picture_form(data) or "").startswith("PNG") else None


def _text_of(data: bytes) -> Mapping[str, str]:
    with Image.open(io.BytesIO(data)) as picture:
        return {str(k): str(v) for k, v in picture.info.items() if isinstance(v, str)}


def _figures(url: str, evaluations: Sequence[str]) -> list[Mapping[str, Any]]:
    places = [p if p.endswith(".json") else storage.join(p, FIGURES) for p in evaluations]
    own = storage.join(url, FIGURES)
    if not places and storage.exists(own):
        places = [own]
    found: list[Mapping[str, Any]] = []
    for place in places:
        value = _document(place)
        if value.get("kind") != "evaluation" or not isinstance(value.get("metrics"), list):
            raise DataError(f"{storage.shown(place)}: is no evaluation.json of `ldm-run evaluate`")
        found.append(without_places(value))
    return found


def _document(url: str) -> Mapping[str, Any]:
    value: Any = documents.parse_json(storage.read_text(url, most=_MOST_TEXT), storage.shown(url), DataError)
    return value if isinstance(value, Mapping) else {}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def without_places(value: Any) -> Any:
    """`value` with paths and URLs cut down to their last part."""
    if isinstance(value, Mapping):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, str) and _ABSOLUTE.match(value):
        return re.split(r"[/\\]", value.split("?")[0].rstrip("/\\"))[-1]
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list | tuple) else []


def _places(config: Any, path: str = "") -> list[str]:
    """``dataset.url: PLACE`` of each path and URL, but for those on the Hub."""
    if isinstance(config, str):
        known = not _ABSOLUTE.match(config) or config.startswith("hf://")
        return [] if known else [f"{path}: {clean(storage.shown(config), 120)}"]
    rows: Any = ()
    if isinstance(config, Mapping):
        rows = ((f"{path}.{key}" if path else str(key), each) for key, each in config.items())
    elif isinstance(config, list):
        rows = ((f"{path}[{i}]", each) for i, each in enumerate(config))
    return [line for where, each in rows for line in _places(each, where)]
