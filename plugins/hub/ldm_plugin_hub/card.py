"""The model card: front matter for the Hub, and a page on use, parts, data, figures and samples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
from huggingface_hub import EvalResult, ModelCardData

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.errors import LDMError, clean
from ldm_core.recipe.description import resolve_described
from ldm_plugin_hub.licences import OTHER
from ldm_plugin_hub.run import DATA_SHEET, FIGURES, SHEET, Published

LIBRARY = "ldm-core"
_TEXT, _PICTURES = {"caption"}, {"image", "masked_image", "low_resolution", "mask", "segmentation"}
_MOST_PARTS, _MOST_SIZES, _MOST_CLASSES = 8, 3, 40
_FROM_TEXT = "text-to-image"


@attrs.frozen(kw_only=True)
class Stated:
    """The uploader's statements: `target` (``hf://OWNER/NAME``, or a folder's name), licence, and texts of the card."""

    target: str
    title: str
    licence: str
    licence_name: str = ""
    licence_link: str = ""
    about: str = ""
    data: Sequence[str] = ()
    data_licence: str = ""
    tags: Sequence[str] = ()


def reads_of(run: Published, catalog: Catalog) -> set[str]:
    """The inputs of the run's conditioners, as far as those are installed."""
    found: set[str] = set()
    for row in _rows(run.recipe.get("conditioners")):
        with suppress(LDMError):
            found |= {*resolve_described({**run.recipe, "conditioners": [row]}, catalog).reads}
    return found


def task_of(reads: set[str]) -> str:
    """The Hub's name of the task."""
    if reads & _TEXT:
        return _FROM_TEXT
    return "image-to-image" if reads & _PICTURES else "unconditional-image-generation"


def card(run: Published, stated: Stated, catalog: Catalog) -> str:
    """README.md, front matter and all."""
    task = task_of(reads_of(run, catalog))
    lines = [f"# {_plain(stated.title)}", ""]
    lines += [*(_plain(each) for each in stated.about.splitlines()), ""] if stated.about else []
    lines += [f"![Samples of the model]({SHEET})", ""] if SHEET in run.files else []
    lines += [*_use(run, stated, task == _FROM_TEXT), ""]
    for section in (_parts, _data, _figures, _samples):
        lines += [*section(run, stated), ""]
    lines += [
        "## Recipe",
        "",
        "`recipe.yaml` has every setting that the model was trained with, without the places of files. To train such a "
        "model on your data:",
        "",
        f"    ldm-run --recipe {stated.target}/recipe.yaml --data FOLDER --out runs/mine",
        "",
        "## Licence",
        "",
        _licence(stated),
    ]
    return f"---\n{_front(run, stated, task).to_yaml()}\n---\n" + "\n".join(lines).rstrip() + "\n"


def _front(run: Published, stated: Stated, task: str) -> ModelCardData:
    """The fields for the Hub."""
    other = (
        {"license_name": stated.licence_name, "license_link": stated.licence_link} if stated.licence == OTHER else {}
    )
    parts = [run.use, *(str(row.get("use", "")) for row in _rows(run.recipe.get("conditioners")))]
    tags = dict.fromkeys(["latent-diffusion", "diffusion", *filter(None, parts), *stated.tags])
    data = list(dict.fromkeys([*stated.data, *run.data_ids]))
    results = list(_results(run, task, data))
    return ModelCardData(
        license=stated.licence,
        library_name=LIBRARY,
        pipeline_tag=task,
        tags=[clean(tag, 60) for tag in tags],
        **({"datasets": data} if data else {}),
        **({"metrics": sorted({each.metric_type for each in results})} if results else {}),
        **({"model_name": stated.title, "eval_results": results} if results else {}),
        **other,
        ignore_metadata_errors=False,
    )


def _results(run: Published, task: str, data: Sequence[str]) -> Iterator[EvalResult]:
    """A result for each figure, with its protocol."""
    for found in run.figures:
        for row in found["metrics"]:
            for name, value in _values(row):
                protocol = {
                    k: row[k] for k in ("of", "pictures", "against", "against_pictures", "source") if row.get(k)
                }
                if "interval" in value:
                    protocol["interval_95"] = [float(each) for each in value["interval"]]
                yield EvalResult(
                    task_type=task,
                    dataset_type=data[0] if data else "custom",
                    dataset_name=data[0] if data else "the data of the run",
                    metric_type=clean(str(row.get("metric", name)), 60),
                    metric_name=clean(_titled(row, name), 80),
                    metric_value=float(value["value"]),
                    metric_args=protocol,
                )


def _values(row: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    values = row.get("values") if isinstance(row, Mapping) else None
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping) and isinstance(value.get("value"), int | float):
            yield str(name), value


def _titled(row: Mapping[str, Any], name: str) -> str:
    metric = str(row.get("metric", name))
    return metric if name == metric else f"{metric}: {name}"


# ----------------------------------------------------------------------------------------------------- sections


def _use(run: Published, stated: Stated, prompted: bool) -> list[str]:
    needed = sorted(d for d in run.versions if d != LIBRARY and re.fullmatch(r"[a-z0-9.-]+", d))
    hub = stated.target.startswith("hf://")
    first = run.samples[0].text.get("prompt", "") if run.samples and prompted else ""
    asked = f'["{_plain(first)}"]' if first and '"' not in first and "\\" not in first else ""
    command = f' --prompt "{_plain(first)}"' if asked and "`" not in first and "$" not in first else ""
    return [
        "## Use",
        "",
        "    pip install " + " ".join([f"'{LIBRARY}[hub]'" if hub else LIBRARY, *needed]),
        f"    ldm-run sample {stated.target}{command} --images 4",
        "",
        "```python",
        "import ldm_core",
        "",
        f'pipeline = ldm_core.load("{stated.target}")',
        f"images = pipeline.sample({asked})",
        "```",
    ]


def _parts(run: Published, stated: Stated) -> list[str]:
    recipe = run.recipe
    rows = [("image size", _sides(recipe.get("image_size")))]
    for key, title in (("first_stage", "first stage"), ("denoiser", "denoiser"), ("parameterization", "predicts"),
                       ("schedule", "noise schedule"), ("sampler", "sampler"), ("guidance", "guidance")):  # fmt: skip
        if (use := _used(recipe.get(key))) != "":
            rows.append((title, use))
    conditioners = ", ".join(filter(None, (_used(row) for row in _rows(recipe.get("conditioners")))))
    rows.append(("conditioners", conditioners or "none"))
    rows.append(("steps of training", f"{run.steps:,}"))
    rows += [(f"parameters in `{name}`", f"{count:,}") for name, count in run.parameters.items()]
    rows.append(("made with", ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))))
    return ["## Parts", "", *_table(("", ""), rows)]


def _data(run: Published, stated: Stated) -> list[str]:
    lines = ["## Data", ""]
    data = [
        f"[{each}](https://huggingface.co/datasets/{each})" for each in dict.fromkeys([*stated.data, *run.data_ids])
    ]
    if data:
        lines += [f"Trained on {', '.join(data)}.", ""]
    parts = run.data.get("parts")
    for part in parts[:_MOST_PARTS] if isinstance(parts, list) else ():
        if isinstance(part, Mapping) and (rows := _sheet(part)):
            lines += [*_table(("data sheet", _plain(part.get("title", ""))), rows), ""]
    if DATA_SHEET in run.files:
        lines += [f"![Pictures of the data]({DATA_SHEET})", ""]
    for key, names in run.class_names.items():
        few = ", ".join(_plain(name) for name in list(names)[:_MOST_CLASSES])
        lines += [
            f"Classes of {_plain(key)} ({len(names):,}): {few}{', ...' if len(names) > _MOST_CLASSES else ''}.",
            "",
        ]
    lines.append(
        f"Licence of the data: {_plain(stated.data_licence)}."
        if stated.data_licence
        else "Licence of the data: not stated."
    )
    return lines


def _sheet(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main figures of one data set, of those that read."""
    found = [("pictures", part.get("examples")), ("held out", part.get("held_out"))]
    rows = [(name, f"{count:,}") for name, count in found if isinstance(count, int)]
    keys = [str(key["name"]) for key in _maps(part.get("keys")) if "name" in key]
    rows += [("keys", ", ".join(keys))] if keys else []
    pictures = part.get("pictures")
    sizes = _maps(pictures.get("sizes") if isinstance(pictures, Mapping) else None)[:_MOST_SIZES]
    said = [f"{size.get('width')}x{size.get('height')} ({size.get('count')})" for size in sizes]
    rows += [("most frequent sizes, width x height", ", ".join(said))] if said else []
    forms = pictures.get("forms") if isinstance(pictures, Mapping) else None
    rows += [("files", ", ".join(map(str, list(forms)[:_MOST_SIZES])))] if isinstance(forms, Mapping) else []
    return [(name, _plain(value)) for name, value in rows]


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _figures(run: Published, stated: Stated) -> list[str]:
    lines = ["## Figures", ""]
    if not run.figures:
        return [*lines, "None were measured (`ldm-run evaluate`)."]
    for found in run.figures:
        rows = []
        for row in found["metrics"]:
            for name, value in _values(row):
                span = value.get("interval")
                spread = f" [{span[0]:.4g}, {span[1]:.4g}]" if isinstance(span, list) and len(span) == 2 else ""
                better = {True: "higher", False: "lower"}.get(value.get("higher_is_better"), "")  # type: ignore[arg-type]
                of = f"{row.get('pictures')} {_plain(str(row.get('of', '')))}"
                against = f"{row.get('against_pictures') or ''} {_plain(str(row.get('against') or ''))}".strip()
                rows.append((_plain(_titled(row, name)), f"{value['value']:.4g}{spread}", better, of, against))
        lines += [*_table(("metric", "value [95 %]", "better", "of", "against"), rows), ""]
        lines += (
            [f"Protocol: {_plain(storage.told_without_folders(str(found['line'])))}", ""]
            if isinstance(found.get("line"), str)
            else []
        )
    return [*lines, f"`{FIGURES}` has the whole record."]


def _samples(run: Published, stated: Stated) -> list[str]:
    lines = ["## Samples", ""]
    if not run.samples:
        return [*lines, "None."]
    rows = []
    for each in run.samples:
        settings = ", ".join(f"{each.text[key]} {key}" if key == "steps" else each.text[key]
                             for key in ("sampler", "steps") if key in each.text)  # fmt: skip
        name = f"[{each.name}](samples/{each.name})"
        rows.append((name, _plain(each.text.get("prompt", "")), _plain(each.text["seed"]), _plain(settings)))
    return [*lines, *_table(("picture", "prompt", "seed", "settings"), rows)]


def _licence(stated: Stated) -> str:
    named = stated.licence
    if stated.licence == OTHER:
        named = f"[{_plain(stated.licence_name)}]({stated.licence_link})"
    return f"{named}, as stated by whoever uploaded the model."


# ------------------------------------------------------------------------------------------------------- texts


def _rows(value: Any) -> list[Mapping[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    return [{"use": row} if isinstance(row, str) else row for row in rows if isinstance(row, str | Mapping)]


def _used(value: Any) -> str:
    use = value.get("use", "") if isinstance(value, Mapping) else value
    return f"`{_plain(str(use).rstrip('/').rpartition('/')[2])}`" if use and isinstance(use, str) else ""


def _sides(value: Any) -> str:
    return "x".join(str(side) for side in value) if isinstance(value, list) else str(value or "")


def _plain(text: object) -> str:
    """A text of others as one line without a meaning in Markdown or HTML."""
    line = clean(str(text), 400)
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", line)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
