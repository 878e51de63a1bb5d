"""The files written by a run into its folder: a list, so the run replaces and deletes no other files.

The list, ``.ldm-files.json``, identifies the content by name. A file with a name of the run's is somebody else's if
the list lacks it or it was changed since. Runs of versions without a list are recognised by their files. Torch-free.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ldm_core import storage
from ldm_core.config import documents
from ldm_core.config.documents import parse_json
from ldm_core.errors import CheckpointError, ConfigError, LDMError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.recipe.recipe import Recipe

FILE = ".ldm-files.json"
RECIPE = RECIPE_FILE
METRICS = "metrics.jsonl"
BAD = "bad_examples.txt"
_GROWING = (METRICS, BAD)
_ANY = "*"  # of a growing file, or of content not known when it was noted
_HEAD = 1 << 16  # bytes at both ends, to tell one content from another
_STAGE_PICTURE = r"(first_stage|denoiser)_[a-z]+\.png"
_USED = re.compile(
    r"(recipe|begun)\.yaml|metrics\.jsonl|bad_examples\.txt|(first_stage|model|best)\.safetensors|(reconstructions|samples)\.png"
    r"|samples/\d{4,}\.png|previews/(samples|reconstructions)-\d{8,}\.png|ema/step-\d{8,}\.safetensors"
    r"|adapters/\w+\.safetensors|" + _STAGE_PICTURE
)
FOLDERS = ("samples", "previews", "ema", "adapters")
"""Folders of a run with files on the list; checkpoints and latents have names of their own."""


def is_stage_picture(name: str) -> bool:
    """True for the name of a picture of a stage's training: ``denoiser_loss.png``."""
    return re.fullmatch(_STAGE_PICTURE, name) is not None


class OwnFiles:
    """The list of the run in the folder `out`. One process writes with it, while it holds the folder's lock."""

    def __init__(self, out: str, marks: Mapping[str, list[str]], threads: int | None = None) -> None:
        self._out, self._marks = out, {name: list(known) for name, known in marks.items()}
        self._threads = threads

    @classmethod
    def read(cls, out: str) -> OwnFiles:
        """The list in `out`; of a run without one, the recognised files. :class:`ConfigError` if the file of the
        list's name is none."""
        url = storage.join(out, FILE)
        if not storage.exists(url):
            own = cls(out, {})
            own._recognise()
            return own
        try:
            plain = parse_json(storage.read_bytes(url), storage.shown(url))
            marks = {str(k): [str(m) for m in v] for k, v in plain["ldm_core_files"].items()}
            number = plain.get("threads")
            return cls(out, marks, number if isinstance(number, int) and number > 0 else None)
        except (LDMError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{storage.shown(url)}: is no list of a run's files ({type(error).__name__}); move it away; what is in "
                "the folder then counts as someone else's"
            ) from None

    @property
    def threads(self) -> int | None:
        """The number of threads of each process by which the run computes; None if it is not known."""
        return self._threads

    def keep_threads(self, number: int) -> None:
        """Note the number for the run's next start."""
        if number != self._threads:
            self._threads = number
            self._put()

    def url(self, name: str) -> str:
        """Give the URL of a file of the run."""
        return storage.join(self._out, name)

    def owns(self, name: str) -> bool:
        """Say whether the existing file of this name is the run's, as it wrote it."""
        marks = self._marks.get(name, [])
        return bool(marks) and (_ANY in marks or _mark_of(self.url(name)) in marks)

    def foreign(self, names: Iterable[str]) -> list[str]:
        """Give those of `names` with a file of somebody else's."""
        names = list(names)
        present = self.present({name.rpartition("/")[0] for name in names})
        return [name for name in names if name in present and not self.owns(name)]

    def present(self, folders: Iterable[str] = ("", *FOLDERS)) -> set[str]:
        """The names of all files in these folders of the run."""
        found: set[str] = set()
        for folder in folders:
            url = self.url(folder) if folder else self._out
            with contextlib.suppress(FileNotFoundError):
                if storage.is_folder(url):
                    for file in storage.list_files(url):
                        found.add("/".join(filter(None, (folder, storage.base_name(file.url)))))
        return found

    def note(self, contents: Mapping[str, bytes | str | None]) -> None:
        """Put files on the list before they are written; None: whatever their content will be."""
        before = {name: list(marks) for name, marks in self._marks.items()}
        for name, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            mark = _ANY if data is None or name in _GROWING else _mark(data)
            known = [m for m in self._marks.get(name, []) if m not in (mark, _ANY)]
            self._marks[name] = [*known[-1:], mark]  # until it is written, the one before is there
        if self._marks != before:
            self._put()

    def write(self, name: str, content: bytes | str) -> str:
        """Write a whole file of the run's and give its URL."""
        self.note({name: content})
        storage.atomic_write(self.url(name), content)
        return self.url(name)

    def remove(self, names: Iterable[str]) -> None:
        """Delete the files written by the run; the others stay."""
        gone = [name for name in names if self.owns(name)]
        for name in gone:
            storage.remove(self.url(name))
            del self._marks[name]
        if gone:
            self._put()

    def adopt(self, names: Iterable[str] | None = None) -> None:
        """Take existing files for the run's own (None: all under names of a run)."""
        if names is None:
            names = {name for name in self.present() if _USED.fullmatch(name)}
        for name in names:
            self._marks[name] = [_ANY] if name in _GROWING else [_mark_of(self.url(name))]
        self._put()

    def _put(self) -> None:
        known: dict[str, object] = {"ldm_core_files": dict(sorted(self._marks.items()))}
        known |= {"threads": self._threads} if self._threads else {}
        storage.atomic_write(storage.join(self._out, FILE), json.dumps(known, separators=(",", ":")))

    # ------------------------------------------------------------------------------- runs without a list

    def _recognise(self) -> None:
        """Put the files of an earlier version's run on the list, without writing it yet."""
        present = self.present()
        if RECIPE not in present or not _is_our_recipe(self.url(RECIPE)):
            return
        self._marks[RECIPE] = [_mark_of(self.url(RECIPE))]
        weights = {n for n in present if n.endswith(".safetensors") and _USED.fullmatch(n) and is_ours(self.url(n))}
        begun = [n for n in ("checkpoints", "latents") if storage.is_folder(self.url(n))]
        if not weights and not begun and METRICS not in present:
            return  # a recipe alone
        drawn = {n for n in present if n.startswith("samples/") and _USED.fullmatch(n) and _is_our_picture(self.url(n))}
        stage = artifacts.STAGE_FILE in weights or METRICS in present
        known = {"reconstructions.png": stage, "samples.png": bool(drawn), METRICS: True, BAD: True}
        for name in present:
            shown = name.endswith(".png") and name.startswith(("previews/", "first_stage_", "denoiser_"))
            if name in weights or name in drawn or known.get(name) or (shown and _USED.fullmatch(name)):
                self._marks[name] = [_ANY] if name in _GROWING else [_mark_of(self.url(name))]


def _mark(data: bytes) -> str:
    ends = data if len(data) <= 2 * _HEAD else data[:_HEAD] + data[-_HEAD:]
    return hashlib.sha256(b"%d " % len(data) + ends).hexdigest()[:24]


def _mark_of(url: str) -> str:
    """As :func:`_mark`, of a file; empty if there is none."""
    try:
        size = storage.info(url).size
        if size <= 2 * _HEAD:
            return _mark(storage.read_bytes(url))
        ends = storage.read_bytes(url, 0, _HEAD) + storage.read_bytes(url, size - _HEAD, size)
        return hashlib.sha256(b"%d " % size + ends).hexdigest()[:24]
    except StorageError:
        return ""


def says(url: str, recipe: Recipe) -> bool:
    """Say whether a recipe's file, in whatever form, holds the very values of `recipe`."""
    try:
        return bool(documents.parse_yaml(storage.read_text(url), url) == recipe.public())
    except LDMError:
        return False


def _is_our_recipe(url: str) -> bool:
    """Say whether a run wrote it: a recipe by hand differs, in some letter, from our writer's text of it."""
    try:
        text = storage.read_text(url)
        plain: Any = documents.parse_yaml(text, url)
        whole = isinstance(plain, dict) and {"first_stage", "denoiser", "trainer", "sample"} <= set(plain)
        return whole and documents.dump_yaml(plain) == text
    except LDMError:
        return False


def is_ours(url: str) -> bool:
    """Say whether a file of weights was written by ldm-core."""
    try:
        header, _ = artifacts.raw_header(url)
    except (CheckpointError, StorageError):
        return False
    return "ldm_core" in (header.get("__metadata__") or {})


def _is_our_picture(url: str) -> bool:
    from ldm_core.data.images import png_metadata

    try:
        return png_metadata(storage.read_bytes(url)).get("software") == "ldm-core"
    except LDMError:
        return False
