"""The served models: known by their headers, loaded when they are asked for, the least recently used ones let go."""

from __future__ import annotations

import gc
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts.values import EMPTY
from ldm_core.data import images, known_pixels
from ldm_core.data.palettes import Palette, palette_of
from ldm_core.errors import ConfigError, LDMError, clean
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.recipe.description import resolve_described
from ldm_core.weights import presets as stored
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.models.marks import Marks

if TYPE_CHECKING:
    from ldm_core.recipe.recipe import Recipe
    from ldm_core.sampling.pipeline import Pipeline

log = logging.getLogger("ldm_serve")
_MOST_SAMPLE = 16 << 20  # bytes of a picture that is looked at for its prompt
_SIZED = 8  # pipelines of other sizes or settings that are kept beside a loaded model; they share its weights


@attrs.define(eq=False)
class Entry:
    """One served run: its place, and the content of its header."""

    id: str
    url: str
    recipe: Recipe | None = None
    class_names: Mapping[str, Sequence[str]] = EMPTY
    palettes: Mapping[str, Palette] = EMPTY
    presets: Mapping[str, stored.Preset] = EMPTY
    sha256: str = ""
    prompt: str = ""
    """A prompt that the run drew samples of: an example of its words."""
    pipeline: Pipeline | None = None
    bytes: int = 0
    variants: OrderedDict[Any, Any] = attrs.field(factory=OrderedDict)
    old: bool = False
    """True once the run's files are others: kept for accepted requests alone, another entry stands in its place."""

    @property
    def ready(self) -> bool:
        """True if there is a trained model to sample from."""
        return self.recipe is not None


class Shelf:
    """All models by id. Descriptions are read in the server's thread, weights in the sampling one."""

    def __init__(
        self, urls: Sequence[str], catalog: Catalog, *, memory: int, device: str | None = None, precision: str = "fp32"
    ) -> None:
        self.catalog, self.memory, self.device, self.precision = catalog, memory, device, precision
        self.entries: dict[str, Entry] = {}
        self._loaded: list[Entry] = []  # the least recently used first
        self._marks = Marks()
        self._lock, self._looking = threading.Lock(), threading.Lock()
        for url in urls:
            name = _name_of(url, self.entries)
            self.entries[name] = Entry(name, url)
        for entry in self.entries.values():
            self._marks.changed(entry.url)
            self.look(entry)

    def hidden(self, fault: Fault) -> Fault:
        """The fault without the places of the runs."""
        for entry in self.entries.values():
            path = storage.local_path(entry.url)
            more = [] if path is None else [str(path.resolve()), str(path), str(path.resolve().parent)]
            for place in (entry.url.rstrip("/"), *more):
                if len(place) > 1:
                    fault.message = fault.message.replace(place, entry.id)
        return fault

    def get(self, name: object) -> Entry:
        """The entry of an id; :class:`Fault` with the known ones."""
        entry = self.entries.get(name) if isinstance(name, str) else None
        if entry is None:
            raise Fault("there is no such model", "model", status=404, allowed=self.entries)
        return entry

    def model(self, name: object) -> tuple[Entry, Recipe]:
        """The same with its recipe; :class:`Fault` if it is not trained yet."""
        entry = self.get(name)
        entry = self.refreshed(entry)
        if entry.recipe is None:
            raise Fault(f"'{entry.id}' has no finished model yet", "model", status=409, fix="ask again later")
        return entry, entry.recipe

    def refreshed(self, entry: Entry) -> Entry:
        """The entry by the run's present files: another one, in its place, if the run was trained on meanwhile.

        Requests that were accepted before keep the one that they were checked by. Files that do not read change
        nothing.
        """
        with self._looking:
            now = self.entries[entry.id]
            if now.recipe is None:
                self._marks.changed(now.url)
                self.look(now)
                return now
            if now is not entry or not self._marks.changed(entry.url) or not artifacts.is_native(entry.url):
                return now
            made = Entry(entry.id, entry.url)
            try:
                self.look(made)
            except LDMError as error:
                log.warning("model %s was changed, and does not read: %s", entry.id, error)
            if made.recipe is None:
                return entry
            self.entries[entry.id] = made
            entry.old = True
            log.info("model %s was changed; its new files are served", entry.id)
            return made

    def look(self, entry: Entry) -> None:
        """Read the header of a run; one still in training is left without a recipe."""
        if _unfinished(entry.url):
            return
        if not artifacts.is_native(entry.url):  # another program's: its recipe is known with its weights
            pipeline = self.load(entry)
            entry.recipe, entry.class_names, entry.palettes = pipeline.recipe, pipeline.class_names, pipeline.palettes
            entry.sha256 = pipeline.weights
            return
        header = artifacts.read_header(artifacts.find(entry.url, artifacts.MODEL_FILE), "model")
        entry.class_names = header.extra.get("class_names") or {}
        rows = header.extra.get("palettes") or {}
        entry.palettes = {key: palette_of(some, where="its palette") for key, some in rows.items()}
        entry.presets = stored.parse(header.presets, entry.id, self.catalog) if header.presets else {}
        entry.sha256 = header.sha256
        entry.prompt = _prompt(entry.url)
        entry.recipe = resolve_described(known_pixels.as_made(header.config), self.catalog)

    def load(self, entry: Entry) -> Pipeline:
        """Load an entry's weights, and let the least recently used ones go if all exceed the memory."""
        from ldm_core.sampling.pipeline import Pipeline

        with self._lock:
            if entry.pipeline is not None:
                self._loaded.remove(entry)
                self._loaded.append(entry)
                return entry.pipeline
            wanted = entry.bytes or _stored(entry.url)
            while self._loaded and sum(each.bytes for each in self._loaded) + wanted > self.memory:
                self._let_go(next((each for each in self._loaded if each.old), self._loaded[0]))
            precision: Any = self.precision
            pipeline = Pipeline.load(entry.url, device=self.device, precision=precision, catalog=self.catalog)
            entry.pipeline, entry.bytes = pipeline, _weight(pipeline)
            entry.variants.clear()
            self._loaded.append(entry)
            log.info("model %s loaded, %.1f MiB", entry.id, entry.bytes / (1 << 20))
            return pipeline

    def _let_go(self, entry: Entry) -> None:
        self._loaded.remove(entry)
        entry.pipeline = None
        entry.variants.clear()
        log.info("model %s let go", entry.id)
        _collect()

    def release(self, wanted: Collection[Entry]) -> None:
        """Let those go that were replaced, but for the ones still `wanted`."""
        with self._lock:
            for entry in [each for each in self._loaded if each.old and each not in wanted]:
                self._let_go(entry)

    @property
    def loaded(self) -> list[Entry]:
        """The loaded ones, the least recently used first."""
        return list(self._loaded)

    def _standing(self, entry: Entry) -> Entry:
        """The entry, or the one in its place if its weights are gone. :class:`Fault` if that is another model."""
        if not entry.old or entry.pipeline is not None:
            return entry
        now = self.entries[entry.id]
        if now.recipe != entry.recipe:
            raise Fault("was made anew meanwhile, of other settings", "model", status=409, fix="ask again")
        return now

    def variant(self, entry: Entry, size: tuple[int, int], preset: str, settings: Mapping[str, Any]) -> Pipeline:
        """The pipeline of an entry at a size, by a preset, with settings on top; the last few are kept."""
        entry = self._standing(entry)
        base = self.load(entry)
        key = (size, preset, repr(sorted(settings.items())))
        made = entry.variants.get(key)
        if made is None:
            made = base
            if size != made.recipe.image_size:
                made = made.at_size(size)
            if preset:
                made = made.with_preset(preset)
            if settings:
                made = made.with_settings(settings)
            entry.variants[key] = made
            while len(entry.variants) > _SIZED:
                entry.variants.popitem(last=False)
        entry.variants.move_to_end(key)
        return made


def _unfinished(url: str) -> bool:
    """True of the folder of an unfinished run."""
    if not storage.is_folder(url) or storage.exists(storage.join(url, artifacts.MODEL_FILE)):
        return False
    return storage.exists(storage.join(url, RECIPE_FILE))


def _name_of(url: str, taken: Mapping[str, Any]) -> str:
    """The name of a run's folder, made unique by a number, in a URL's letters."""
    base = storage.base_name(url.rstrip("/"))
    if base.endswith(".safetensors") and storage.base_name(storage.parent(url)):
        base = storage.base_name(storage.parent(url))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip(".-")[:60] or "model"
    number, made = 2, name
    while made in taken:
        number, made = number + 1, f"{name}-{number}"
    return made


def _stored(url: str) -> int:
    """The bytes of a run's weights, as far as they are known beforehand."""
    total = 0
    for name in (artifacts.MODEL_FILE, artifacts.STAGE_FILE):
        try:
            total += storage.info(artifacts.find(url, name)).size
        except (LDMError, OSError):
            continue
    return total


def _weight(pipeline: Pipeline) -> int:
    modules: list[Any] = [pipeline.stage, pipeline.model]
    tensors = [each for module in modules for each in (*module.parameters(), *module.buffers())]
    return sum({id(each): each.numel() * each.element_size() for each in tensors}.values())


def _collect() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def known_runs(urls: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for a missing place, and for a folder without a run that has begun."""
    begun = (RECIPE_FILE, artifacts.MODEL_FILE, artifacts.STAGE_FILE)
    for url in urls:
        if not storage.is_folder(url) and not storage.exists(url):
            raise ConfigError(
                f"{url}: is not there; give the folder of a run that has begun, finished or not, or a model.safetensors"
            )
        files = any(storage.exists(storage.join(url, name)) for name in begun)
        if not files and storage.is_folder(url) and artifacts.is_native(url):
            raise ConfigError(
                f"{url}: holds no run yet; begin its training first, and it is served while it trains, with its curves"
            )


def _prompt(url: str) -> str:
    """The prompt of the first picture in a run's ``samples``; "" without one."""
    place = storage.join(url, "samples", "0000.png")
    try:
        data = storage.read_bytes(place, most=_MOST_SAMPLE) if storage.exists(place) else b""
        return clean(images.png_metadata(data).get("prompt", ""), 120) if data else ""
    except Exception:  # somebody else's picture; the example is then of the conditioner
        return ""
