"""The annotation files of a data set: those that the setting names, of the split, and the format that reads them."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.catalog.first_party import FIRST_PARTY
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import AnnotationFiles, AnnotationFormat, Site
from ldm_core.data.annotations.pictures import stems
from ldm_core.data.records.config import annotation_parts
from ldm_core.data.records.folder_layout import is_picture, split_word
from ldm_core.errors import ConfigError, DataError, NoSplit, StorageError, clean, quoted, suggest
from ldm_core.storage import FileInfo

MOST = 1 << 30
"""Bytes of an annotation file that is read whole."""
_LONGEST = 1 << 20  # bytes of a line of one
_SETTING = "dataset.annotations"
Tree = Mapping[str, FileInfo]


class Files(AnnotationFiles):
    """Files by their paths, with the bytes of no others."""

    def __init__(self, tree: Tree, names: Sequence[str], pictures: Sequence[str]) -> None:
        self._tree, self.names, self.pictures = tree, tuple(names), pictures
        above = {folder for name in names for folder in _folders(name)}
        asked = set(names)
        self.beside: Sequence[str] = tuple(
            path for path in tree if path not in asked and path.rpartition("/")[0] in above and not is_picture(path)
        )

    def read(self, name: str, most: int | None = None) -> bytes:
        """See :class:`~ldm_core.contracts.AnnotationFiles`."""
        file = self._file(name)
        if most is not None:
            return storage.read_bytes(file.url, 0, most)
        if file.size > MOST:
            raise DataError(f"{name}: has {file.size:,} bytes, at most {MOST:,} are read; split it, or make it smaller")
        return storage.read_bytes(file.url, most=MOST)

    def lines(self, name: str) -> Iterator[str]:
        """See :class:`~ldm_core.contracts.AnnotationFiles`."""
        with storage.open_read(self._file(name).url) as file:
            number = 0
            while line := file.readline(_LONGEST + 1):
                number += 1
                if len(line) > _LONGEST:
                    raise DataError(f"{name} line {number}: is longer than {_LONGEST:,} bytes")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise DataError(f"{name} line {number}: is not UTF-8 text") from None
                yield text.rstrip("\r\n")

    def _file(self, name: str) -> FileInfo:
        if name not in self._tree:
            raise DataError(f"{quoted(name, 120)}: is none of the annotation files")
        if self._tree[name].irregular:
            raise DataError(f"{name}: is {self._tree[name].irregular}")
        return self._tree[name]


@attrs.frozen(eq=False)
class Chosen:
    """A format, the files that it reads, and their `names`; `settings`, those of the format, for a fingerprint; `title`
    of the data in messages."""

    use: str
    format: AnnotationFormat
    files: Files
    names: tuple[str, ...]
    settings: Mapping[str, Any]
    title: str = ""

    @property
    def shown(self) -> str:
        """The files in messages."""
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return clean(self.names[0], 120) + more


def choose(
    value: str | Mapping[str, Any], tree: Tree, root: str, pictures: Sequence[str], split: str, site: Site
) -> Chosen:
    """The annotations named by the setting `value`, of `split`: files of `tree` (paths in the folder `root`), or of
    elsewhere. DataError for none, NoSplit where there are those of other splits alone."""
    use, asked, settings = annotation_parts(value)
    known: dict[str, FileInfo] = {path: file for path, file in tree.items() if not is_picture(path)}
    named: list[str] = []
    kept: list[str] = []
    of_pictures = stems(pictures)
    for text in asked:
        found = _named(text, known, root)
        known |= found.more
        named += found.names
        kept += found.of_split(split, of_pictures)
    if not named:
        raise DataError(f"{storage.shown(root)}: {_SETTING} names nothing but pictures; name the files of their boxes")
    if not kept and split != "train":
        raise NoSplit(
            f"{storage.shown(root)}: {_SETTING} names {quoted(named[0], 120)}, of another split than '{split}'; name "
            f"those of '{split}' as well"
        )
    kept = list(dict.fromkeys(kept or named))
    files = Files(known, kept, pictures)
    catalog = site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover(kinds=["annotation"])
    return attrs.evolve(_format(use, settings, files, catalog, site), title=storage.shown(root))


# ---------------------------------------------------------------------------------------------- the format


def _format(use: str, settings: Mapping[str, Any], files: Files, catalog: Catalog, site: Site) -> Chosen:
    known = catalog.names("annotation")
    first = clean(files.names[0], 120)
    if not known:
        brings = sorted({d for (kind, _), d in FIRST_PARTY.items() if kind == "annotation"})
        raise DataError(f"{_SETTING}: no reader of annotations is installed; pip install {' '.join(brings)}")
    if not use and settings:
        raise ConfigError(f"{_SETTING}: {', '.join(settings)}: settings of a format; name it too, as use={known[0]}")
    found = []
    for name in [use] if use else known:
        entry, preset = catalog.get("annotation", name)
        given = {**(unstructure(preset) if preset is not None else {}), **unstructure(settings)}
        config: Any = structure(given, entry.component.config, _SETTING)
        made: AnnotationFormat = entry.component.load()(config, site)
        if taken := tuple(made.recognise(files)):
            found.append(Chosen(name, made, files, taken, unstructure(config)))
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{first}: may be {' or '.join(each.use for each in found)}; say which, with {_SETTING}="
            f"'{{use: {found[0].use}, files: ...}}'"
        )
    more = f" and {len(files.names) - 1} more" if len(files.names) > 1 else ""
    tried = f"no annotations of the format {use}" if use else f"no annotations of {', '.join(known)}"
    raise DataError(f"{first}{more}: holds {tried}; check {_SETTING}, which names files or their folder")


# ----------------------------------------------------------------------------------------------- the files


@attrs.frozen
class _Named:
    """Files named by a part of the setting: `exact`, one alone, or all `below` a folder; `siblings` of the one file
    differ from it in the word for the split; `more` files, from outside of the data."""

    names: list[str]
    exact: bool = False
    below: str = ""
    siblings: Sequence[str] = ()
    more: Mapping[str, FileInfo] = attrs.field(factory=dict)

    def of_split(self, split: str, pictures: frozenset[str]) -> list[str]:
        """Those of `split`. A single file is of the training data as it is named, and its sibling of held-out data."""
        if not self.exact:
            return [n for n in self.names if not (w := _splits(n.removeprefix(self.below), pictures)) or split in w]
        own = _words(self.names[0].rpartition("/")[2])
        if split == "train" or not own or split in own:
            return self.names
        return [each for each in self.siblings if split in _words(each.rpartition("/")[2])]


def _named(text: str, tree: Tree, root: str) -> _Named:
    """The paths named by `text` (a file, a folder, a pattern): of `tree`, or of elsewhere, with the files there."""
    path = text if "://" in text else posixpath.normpath(text.replace("\\", "/"))
    if path in tree:
        return _Named([path], True, siblings=_siblings(path, tree))
    found = [each for each in tree if path == "." or each.startswith(path + "/")]
    found = found or [each for each in tree if fnmatch.fnmatchcase(each, path)]
    if found:
        return _Named(found)
    try:
        for place in dict.fromkeys((storage.join(root, text), text)):
            if (elsewhere := _elsewhere(storage.expand(place))) is not None:
                return elsewhere
    except StorageError as error:
        raise DataError(f"{_SETTING}: {error}") from error
    raise DataError(
        f"{storage.shown(root)}: {_SETTING} names {quoted(text, 120)}, neither in the data nor a path of its own"
        f"{suggest(path, list(tree)[:5000])}"
    )


def _elsewhere(urls: Sequence[str]) -> _Named | None:
    """The files at places outside of the data, by their shown URLs; None if nothing is there."""
    found: list[str] = []
    more: dict[str, FileInfo] = {}
    for url in urls:
        if storage.is_folder(url):
            there = {storage.shown(file.url): file for file in storage.list_files(url, recursive=True)}
            found += [each for each in there if not is_picture(each)]
        elif storage.exists(url):
            there = {storage.shown(file.url): file for file in storage.list_files(storage.parent(url))}
            there[storage.shown(url)] = storage.info(url)
            found.append(storage.shown(url))
        else:
            continue
        more |= there
    if len(urls) == 1 and len(found) == 1 and not storage.is_folder(urls[0]):
        return _Named(found, True, siblings=_siblings(found[0], more), more=more)
    below = storage.shown(urls[0]).rstrip("/") + "/" if len(urls) == 1 else ""
    return _Named(found, below=below, more=more) if more else None


def _siblings(path: str, tree: Tree) -> list[str]:
    """Files beside `path` whose names differ from its in the word for a split alone."""
    folder, masked = path.rpartition("/")[0], _masked(path)
    if not _words(path.rpartition("/")[2]):
        return []
    return [each for each in tree if each != path and each.rpartition("/")[0] == folder and _masked(each) == masked]


def _parts(name: str) -> list[str]:
    return re.split(r"([-_. ])", name)


def _masked(path: str) -> str:
    return "".join("*" if split_word(part) else part for part in _parts(path.rpartition("/")[2]))


def _words(name: str) -> set[str]:
    """The splits that words of a name stand for."""
    return {split_word(part) for part in _parts(name)} - {""}


def _splits(path: str, pictures: frozenset[str]) -> set[str]:
    """The splits that a file is of, by its folders, and by its own name where it is of many pictures."""
    *folders, name = path.split("/")
    words = {split_word(folder) for folder in folders} - {""}
    return words if name.rpartition(".")[0] in pictures else words | _words(name)


def _folders(path: str) -> list[str]:
    """The folder of a path, and those above it."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
