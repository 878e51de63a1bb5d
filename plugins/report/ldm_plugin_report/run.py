"""The facts in a run's folder, read for its report: as much as is there, and a line on each missing thing.

Every file may be missing, half-written or made by somebody else. No file is run, none outside the folder is opened, and
sizes are bounded before anything is read. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import attrs

from ldm_core import storage
from ldm_core.config import documents
from ldm_core.errors import DataError, LDMError, clean
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.recipe.keys import renewed
from ldm_core.storage import FileInfo
from ldm_core.training.folder.own_files import BAD
from ldm_core.training.folder.state import NOTHING, RUNS, Watch
from ldm_plugin_report import events
from ldm_plugin_report.curves import Measurements
from ldm_plugin_report.events import Events

EVALUATION = "evaluation.json"
DATA_SHEETS = ("datasheet.json", "datasheet.png")
"""Names in a run's folder of what ``ldm-run data --json`` and ``--sheet`` give."""
_NUMBERED = re.compile(r"(samples|reconstructions)-(\d{1,15})\.png")
_MOST_PICTURE, _MOST_TEXT = 64 << 20, 16 << 20
_MOST_EVALUATIONS, _MOST_BAD = 20, 200
_MOST_ROWS = 5000  # of pictures' names that are looked at

T = TypeVar("T")


@attrs.frozen
class Weights:
    """The header of a file of weights: its maker, its parameters by part, its size in bytes."""

    use: str
    versions: Mapping[str, str]
    extra: Mapping[str, Any]
    parameters: Mapping[str, int]
    size: int
    presets: tuple[str, ...] = ()


@attrs.frozen
class Picture:
    """A picture of a run: its URL, and the step or number in its name."""

    url: str
    number: int = 0

    def data(self) -> bytes:
        """Read it. LDMError if it does not read or is too large."""
        return storage.read_bytes(self.url, most=_MOST_PICTURE)


@attrs.frozen(kw_only=True, slots=False)
class Facts:
    """The content of a run's folder `url`. `missing`: a line for each missing or unreadable thing."""

    url: str
    name: str
    state: str
    recipe: Mapping[str, Any] = attrs.field(factory=dict)
    stage: Weights | None = None
    model: Weights | None = None
    best: Weights | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    events: Events = attrs.field(factory=Events)
    samples: Sequence[Picture] = ()
    sheet: Picture | None = None
    previews: Sequence[Picture] = ()
    stage_previews: Sequence[Picture] = ()
    reconstructions: Picture | None = None
    evaluations: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, Any] = attrs.field(factory=dict)
    data_sheet: Picture | None = None
    bad: Sequence[str] = ()
    bad_count: int = 0
    missing: Sequence[str] = ()
    watch: Watch
    """Looks at the folder's lock."""
    measured: Measurements
    """Reads what is new of its measurements."""

    def public(self, text: object, most: int = 400) -> str:
        """A text for the report: of local paths the last name is left, control characters are escaped."""
        shown = str(text).replace(self.url.rstrip("/"), self.name)
        for place in self._places:
            shown = shown.replace(place, storage.without_folders(place))
        return clean(storage.told_without_folders(shown), most)

    @cached_property
    def _places(self) -> Sequence[str]:
        """The local paths in the recipe, which may have spaces; the longest first."""
        found = {text for text in documents.texts(self.recipe) if storage.without_folders(text) != text}
        return sorted(found, key=len, reverse=True)


def read(url: str, *, evaluations: Sequence[str] = (), ended: bool = False, before: Facts | None = None) -> Facts:
    """Read the run at `url`, with further evaluations (folders or files). `ended`: its process is the caller and
    about to leave. `before`: an earlier reading; its measurements are not read again. :class:`DataError` if
    there is no run."""
    watch, measured = (Watch(url), Measurements(url)) if before is None else (before.watch, before.measured)
    state = watch.look().state
    if state == NOTHING and not ended:
        raise DataError(
            f"{storage.shown(url)}: is no run's folder (no {RECIPE_FILE}, weights or measurements in it); give the "
            "folder or URL that `ldm-run` wrote"
        )
    return _Reader(url, evaluations, watch, measured).facts(state, ended)


class _Reader:
    """One reading; `missing` grows with it."""

    def __init__(self, url: str, evaluations: Sequence[str], watch: Watch, measured: Measurements) -> None:
        self._url, self._asked = url, evaluations
        self._watch, self._measured = watch, measured
        self.missing: list[str] = []
        self._names: dict[str, FileInfo] = {}

    def facts(self, state: str, ended: bool) -> Facts:
        """Read it all."""
        self._names = self._listed("")
        measured = self._measured
        self._tried("metrics.jsonl", measured.update, False)
        if not measured.there:
            self.missing.append("metrics.jsonl is missing: no curves and times")
        elif measured.damaged:
            self.missing.append(f"metrics.jsonl: {measured.damaged} lines do not read and are passed over")
        diary = self._tried(events.FILE, lambda: events.read(self._url), Events())
        if ended or (state == RUNS and diary.ended and diary.ended != "None"):
            state = {"done": "finished", "None": "stopped"}.get(diary.ended, diary.ended) or state
        previews = self._numbered("previews")
        bad = self._text(BAD).splitlines()
        return Facts(
            url=self._url,
            watch=self._watch,
            measured=self._measured,
            name=clean(storage.base_name(self._url.rstrip("/")) or "run", 80),
            state=state,
            recipe=self._recipe(),
            stage=self._weights(artifacts.STAGE_FILE, "first_stage", "the first stage is not trained yet"),
            model=self._weights(artifacts.MODEL_FILE, "model", "the denoiser is not trained to its end"),
            best=self._weights(artifacts.BEST_FILE, "model", ""),
            rows=measured.rows,
            events=diary,
            samples=self._samples(),
            sheet=self._picture("samples.png"),
            previews=[each for kind, each in previews if kind == "samples"],
            stage_previews=[each for kind, each in previews if kind == "reconstructions"],
            reconstructions=self._picture("reconstructions.png"),
            evaluations=self._evaluations(),
            data=self._json(DATA_SHEETS[0]),
            data_sheet=self._picture(DATA_SHEETS[1]),
            bad=bad[:_MOST_BAD],
            bad_count=len(bad),
            missing=tuple(self._public(line) for line in self.missing),
        )

    def _public(self, line: str) -> str:
        return clean(line.replace(storage.shown(self._url).rstrip("/") + "/", ""), 300)

    def _tried(self, name: str, work: Callable[[], T], otherwise: T) -> T:
        """The answer of `work`, or `otherwise` and a line."""
        try:
            return work()
        except (LDMError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.missing.append(f"{name} does not read: {str(error).splitlines()[0] if str(error) else error!r}")
            return otherwise

    def _listed(self, folder: str) -> dict[str, FileInfo]:
        """The files of a folder of the run by name; a web server may list none, then known names are asked for."""
        url = storage.join(self._url, folder) if folder else self._url

        def listed() -> dict[str, FileInfo]:
            if not storage.is_folder(url):
                return {}
            return {storage.base_name(f.url): f for f in storage.list_files(url) if not f.irregular}

        return self._tried(folder or "the folder's listing", listed, {})

    def _has(self, name: str) -> bool:
        return name in self._names or (not self._names and storage.exists(storage.join(self._url, name)))

    def _picture(self, name: str) -> Picture | None:
        return Picture(storage.join(self._url, name)) if self._has(name) else None

    def _text(self, name: str) -> str:
        if not self._has(name):
            return ""
        return self._tried(name, lambda: storage.read_text(storage.join(self._url, name), most=_MOST_TEXT), "")

    def _json(self, name: str) -> Mapping[str, Any]:
        if not (text := self._text(name)):
            return {}
        found: Any = self._tried(name, lambda: documents.parse_json(text, name), {})
        return found if isinstance(found, Mapping) else {}

    def _recipe(self) -> Mapping[str, Any]:
        text = self._text(RECIPE_FILE)
        found = self._tried(RECIPE_FILE, lambda: documents.parse_yaml(text, RECIPE_FILE), None) if text else None
        if not isinstance(found, Mapping):
            self.missing.append(f"{RECIPE_FILE} is {'no recipe' if text else 'missing'}: settings are not known")
            return {}
        return self._tried(RECIPE_FILE, lambda: renewed(found), {})

    def _weights(self, name: str, kind: str, absent: str) -> Weights | None:
        if not self._has(name):
            if absent:
                self.missing.append(f"{name} is missing: {absent}")
            return None
        return self._tried(name, lambda: header(storage.join(self._url, name), kind), None)

    def _samples(self) -> Sequence[Picture]:
        found = self._listed("samples")
        numbered = [(n.removesuffix(".png"), each) for n, each in found.items() if n.endswith(".png")]
        pictures = [Picture(each.url, int(n)) for n, each in numbered if n.isdecimal() and len(n) < 16]
        if not pictures:
            self.missing.append("samples/ is empty: no samples were drawn yet")
        return sorted(pictures, key=lambda each: each.number)[:_MOST_ROWS]

    def _numbered(self, folder: str) -> list[tuple[str, Picture]]:
        found = [
            (m[1], Picture(f.url, int(m[2]))) for n, f in self._listed(folder).items() if (m := _NUMBERED.fullmatch(n))
        ]
        if not any(kind == "samples" for kind, _ in found):
            self.missing.append("previews/ has no samples: trainer.preview_every=N draws them on the way")
        return sorted(found, key=lambda each: each[1].number)

    def _evaluations(self) -> list[Mapping[str, Any]]:
        """Those in the run's folder and in a folder ``evaluations`` of it, and the asked ones."""
        places = [storage.join(self._url, EVALUATION)] if EVALUATION in self._names else []
        inside = storage.join(self._url, "evaluations")
        if storage.local_path(self._url) is not None and storage.is_folder(inside):
            every: list[FileInfo] = self._tried("evaluations", lambda: storage.list_files(inside, recursive=True), [])
            places += [f.url for f in every if storage.base_name(f.url) == EVALUATION][:_MOST_EVALUATIONS]
        found = [self._tried(storage.shown(place), lambda p=place: _evaluation(p), None) for place in places]  # type: ignore[misc]
        asked = [_evaluation(p if p.endswith(".json") else storage.join(p, EVALUATION)) for p in self._asked]
        return [each for each in (*found, *asked) if each]


def _evaluation(url: str) -> Mapping[str, Any] | None:
    found = documents.parse_json(storage.read_text(url, most=_MOST_TEXT), storage.shown(url))
    if not isinstance(found, Mapping) or found.get("kind") != "evaluation":
        raise DataError(f"{storage.shown(url)}: is no evaluation.json of `ldm-run evaluate`")
    return found


def header(url: str, kind: str) -> Weights:
    """The facts of a weights file's header; its tensors are not read."""
    raw, _ = artifacts.raw_header(url)
    texts = raw.get("__metadata__") or {}
    body = artifacts.parse_body(texts.get("ldm_core", "{}"), storage.base_name(url))
    if body["kind"] != kind:
        raise DataError(f"{storage.base_name(url)} holds {artifacts.KINDS[body['kind']]}")
    shapes = [(name, tensor["shape"]) for name, tensor in raw.items() if name != "__metadata__"]
    return Weights(
        use=clean(body["use"], 80),
        versions={clean(k, 80): clean(v, 40) for k, v in body["versions"].items()},
        extra={k: v for k, v in body.items() if k not in ("config", "versions", "format", "kind", "use")},
        parameters=_by_part(shapes),
        size=storage.info(url).size,
        presets=tuple(artifacts.preset_names(texts.get(artifacts.PRESETS, ""))),
    )


def _by_part(shapes: Iterable[tuple[str, Sequence[int]]]) -> dict[str, int]:
    """Values of the tensors by the first word of their names, conditioners by two."""
    found: dict[str, int] = {}
    for name, shape in shapes:
        words = name.split(".")
        part = ".".join(words[: 2 if words[0] == "conditioners" else 1])
        count = 1
        for side in shape:
            count *= side
        found[clean(part, 60)] = found.get(clean(part, 60), 0) + count
    return found
