"""Layout of a folder of pictures: splits, folders of earlier runs, samples, and files of no part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.data.records.folder_metadata import METADATA
from ldm_core.data.records.sources import ANNOTATIONS, PICTURES
from ldm_core.data.records.store import Sample
from ldm_core.errors import DataError, NoSplit, StorageError, clean

_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}  # fmt: skip
_PLAIN_WORDS = ("train", "val", "valid", "validation", "test", "dev")
_SPLIT = re.compile(rf"({'|'.join(_WORDS)})(?:[-_ ]?(?:\d{{4}}|set|split|images|imgs|data))?")
# Extensions with a dot inside; other dots belong to the picture's name.
_COMPOUND = (".seg.png", ".mask.png", ".embedding.npy")
_ENDINGS = tuple(f".{extension}" for extension in PICTURES)
_RECIPE = "recipe.yaml"
_SHEET = re.compile(r"grid(-\d+)?\.png")
_SAMPLE = re.compile(rf"\d{{4,}}(-.*)?\.png|{_SHEET.pattern}")
_SAMPLES = re.compile(r"(samples|reconstructions)(-\d+)?")
_MARKS = (b"tEXtsoftware\0ldm-core", b"tEXtsource\0", b"iTXtsource\0")  # in the metadata of each such picture
_HEAD = 1 << 16  # bytes in which it is
_RECIPE_BYTES = 1 << 20
_LIST = ".ldm-files.json"
_RECIPE_KEYS = ("image_size:", "first_stage:", "denoiser:")
_RUN_FILE = re.compile(
    r"(recipe|begun)\.yaml|metrics\.jsonl|bad_examples\.txt|(first_stage|model|best)\.safetensors"
    r"|(samples|reconstructions)\.png|\w+_(loss|validation)\.png|(samples|previews|latents|checkpoints)/.*"
)
_DEEPEST = 3  # levels down to which the folders of splits are looked for
_SHOWN = 6  # kinds of files that are counted by name
_OTHER_FORMATS = re.compile(  # of pictures and films
    "heic|heif|svgz?|psd|eps|ai|ico|icns|tga|jp2|j2k|jxl|exr|hdr|dds|pcx|sgi|xcf|pdf|cr[23]|nef|arw|dng|orf|rw2|raf"
    "|webm|mp4|mov|avi|mkv"
)
Tree = Mapping[str, storage.FileInfo]


@attrs.define
class LeftOut:
    """Files of no part of the data: for each reason, their number and the first names."""

    counts: Counter[str] = attrs.field(factory=Counter)
    names: dict[str, str] = attrs.field(factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count `name`, or `count` names with this beginning; `reason` is text behind a number."""
        self.counts[reason] += count
        self.names.setdefault(reason, name)

    def text(self) -> str:
        """``left out: 1 x folder of a run (runs/a), 3 x .heic, which is not opened (b.heic)``; empty for nothing."""
        if not self.counts:
            return ""
        told = [f"{n} x {clean(why, 80)} ({clean(self.names[why], 60)})" for why, n in self.counts.most_common(_SHOWN)]
        more = sum(n for _, n in self.counts.most_common()[_SHOWN:])
        return "left out: " + ", ".join(told) + (f", and {more} more files" if more else "")


def split_path(path: str) -> tuple[str, str]:
    """``cats/a.b.jpg`` -> (``cats/a.b``, ``jpg``); ``cats/a.seg.png`` -> (``cats/a``, ``seg.png``)."""
    lower = path.lower()
    for compound in _COMPOUND:
        if lower.endswith(compound):
            return path[: -len(compound)], compound[1:]
    folder, slash, base = path.rpartition("/")
    stem, dot, extension = base.rpartition(".")
    return (folder + slash + stem, extension.lower()) if dot and stem else (path, "")


def is_picture(path: str) -> bool:
    """True for the file name of an example's picture."""
    lower = path.lower()
    return lower.endswith(_ENDINGS) and not lower.endswith(_COMPOUND)


# ------------------------------------------------------------------------------------------------ earlier runs


def without_runs(tree: Tree, root: str, left_out: LeftOut) -> dict[str, storage.FileInfo]:
    """`tree`, of the folder `root`, without the files left in it by runs of this program.

    A run's folder is known by its recipe. Of a run in the top folder, beside the user's own pictures, only the files on
    its list are left out, or by the names of a run's files if it has none.
    """
    kept = dict(tree)
    for path in sorted(path for path in tree if path.rpartition("/")[2] == _RECIPE):
        folder = path.removesuffix(_RECIPE)
        if path not in kept or not _is_recipe(tree[path]):
            continue
        own = [p for p in kept if p.startswith(folder)] if folder else _written(kept, root)
        for each in own:
            del kept[each]
        if folder:
            left_out.add("folder of a run", folder.rstrip("/"))
        else:
            left_out.add("file of a run", path, len(own))
    return _without_samples(kept, left_out)


def _without_samples(tree: dict[str, storage.FileInfo], left_out: LeftOut) -> dict[str, storage.FileInfo]:
    """`tree` without the pictures written by ``sample`` and ``reconstruct`` into folders of their own inside it.

    A folder with a name of theirs, or with the sheet of a sampling, is looked at: one picture of it. Data made entirely
    of such folders is meant as data.
    """
    written: dict[str, list[str]] = {}
    for path in tree:
        folder, _, base = path.rpartition("/")
        if folder and _SAMPLE.fullmatch(base):
            written.setdefault(folder, []).append(path)
    for folder, paths in list(written.items()):
        drawn = [path for path in paths if not _SHEET.fullmatch(path.rpartition("/")[2])]
        likely = len(drawn) < len(paths) or _SAMPLES.fullmatch(folder.rpartition("/")[2])
        if not (drawn and likely and _is_sampled(tree[min(drawn)])):
            del written[folder]
    ours = {path for paths in written.values() for path in paths}
    if not any(is_picture(path) and path not in ours for path in tree):
        return tree
    for folder, paths in written.items():
        left_out.add("picture that was sampled", f"{folder}/", len(paths))
    return {path: file for path, file in tree.items() if path not in ours}


def _is_sampled(file: storage.FileInfo) -> bool:
    try:
        head = b"" if file.irregular else storage.read_bytes(file.url, 0, min(file.size, _HEAD))
    except StorageError:
        return False
    return any(mark in head for mark in _MARKS)


def _written(tree: Tree, root: str) -> list[str]:
    """The files of a run in the top folder."""
    url = storage.join(root, _LIST)
    if not storage.exists(url):
        return [path for path in tree if _RUN_FILE.fullmatch(path)]
    names = parse_json(storage.read_bytes(url), storage.shown(url), DataError)
    listed = names.get("ldm_core_files") if isinstance(names, dict) else None
    known = set(listed) if isinstance(listed, dict) else set()
    return [path for path in tree if path in known or path.startswith(("latents/", "checkpoints/")) or path == "lock"]


def _is_recipe(file: storage.FileInfo) -> bool:
    try:
        text = "" if file.irregular else storage.read_bytes(file.url, 0, _RECIPE_BYTES).decode("utf-8", "replace")
    except StorageError:
        return False
    starts = [line.partition(" ")[0].rstrip() for line in text.splitlines() if line[:1].isalpha()]
    return all(key in starts for key in _RECIPE_KEYS)


# ------------------------------------------------------------------------------------------------------ splits


def split_word(name: str) -> str:
    """``val`` of ``Validation`` or ``val2017``; empty for a folder without a split's name."""
    match = _SPLIT.fullmatch(name.lower())
    return _WORDS[match[1]] if match else ""


def find_split(tree: Tree, split: str, title: str, left_out: LeftOut) -> str:
    """The folder of `split` with a slash behind, if folders of pictures are named for splits; else "". Folders without
    pictures (annotations, labels) make no difference. NoSplit for a missing split.

    Folders without pictures (annotations, labels) make no difference. NoSplit where there is no such split.
    """
    pictures = [path for path in tree if is_picture(path)]
    top = ""
    for _ in range(_DEEPEST):
        inside = [path.removeprefix(top) for path in pictures if path.startswith(top)]
        folders = Counter(path.partition("/")[0] for path in inside if "/" in path)
        if _are_splits(folders, inside, _has_metadata(tree, top)):
            _refuse_empty(tree, top, folders, split, title)
            return top + _chosen(folders, split, title, left_out, len(inside) - sum(folders.values())) + "/"
        if len(folders) != 1 or len(inside) > sum(folders.values()):
            break
        top += next(iter(folders)) + "/"
    if split != "train":
        raise NoSplit(f"{title}: no split '{split}'; it has no sub-folder of that name")
    return ""


def _refuse_empty(tree: Tree, top: str, folders: Mapping[str, int], split: str, title: str) -> None:
    """DataError for a split with files in its folder, but no picture."""
    if any(split in (folder.lower(), split_word(folder)) for folder in folders):
        return
    for path in sorted(tree):
        folder, slash, rest = path.removeprefix(top).partition("/")
        if path.startswith(top) and slash and split_word(folder) == split and not rest.startswith("."):
            raise DataError(
                f"{title}: the folder '{clean(top + folder, 100)}' of the split '{split}' holds no pictures that are "
                f"opened; found {clean(rest, 100)}"
            )


def _has_metadata(tree: Tree, top: str) -> frozenset[str]:
    """The folders of `top` with a metadata file."""
    rows = (path.removeprefix(top).split("/") for path in tree if path.startswith(top) and path.endswith(METADATA))
    return frozenset(parts[0] for parts in rows if len(parts) == 2 and parts[1] in METADATA)


def _are_splits(folders: Mapping[str, int], inside: Sequence[str], described: frozenset[str]) -> bool:
    """True if `folders` with pictures are splits and not classes (a train is a vehicle, too)."""
    words = {folder: split_word(folder) for folder in folders}
    if not any(words.values()) or all(words.values()):
        plain = any(folder.lower() in _PLAIN_WORDS for folder in folders)  # others are splits beside a training's
        return any(words.values()) and (plain or "train" in words.values())
    if "train" not in words.values():
        return False
    if len(set(words.values()) - {""}) > 1:
        return True
    deep = {path.partition("/")[0] for path in inside if path.count("/") > 1} | described
    return all((folder in deep) == bool(word) for folder, word in words.items())


def _chosen(folders: Mapping[str, int], split: str, title: str, left_out: LeftOut, beside: int) -> str:
    exact = [folder for folder in sorted(folders) if folder.lower() == split]
    meant = [folder for folder in sorted(folders) if split_word(folder) == split]
    if not exact + meant:
        found = ", ".join(clean(folder, 60) for folder in sorted(folders) if split_word(folder))
        raise NoSplit(f"{title}: no split '{split}'; found {found}")
    for folder, count in sorted(folders.items()):
        if not split_word(folder):
            left_out.add("picture beside the splits", f"{folder}/", count)
    if beside:
        left_out.add("picture beside the splits", "in the folder itself", beside)
    for folder in (exact + meant)[1:]:
        if folder not in (exact + meant)[:1] and split_word(folder) == split_word((exact + meant)[0]):
            left_out.add(f"picture of another folder for '{split}'", f"{folder}/", folders[folder])
    return (exact + meant)[0]


def count_beside(tree: Tree, base: str, used: Collection[str], left_out: LeftOut) -> None:
    """Count the files beside the folder `base` of a split, other splits and pictures (counted already) left aside."""
    top = base.rstrip("/").rpartition("/")[0] if base else ""
    top = top and top + "/"
    for path in sorted(tree) if base else ():
        inside = path.removeprefix(top) if path.startswith(top) else ""
        aside = "/" in inside and split_word(inside.partition("/")[0])
        named = path.rpartition("/")[2] in (*METADATA, "classes.json", *used)
        if path.startswith(base) or aside or named or is_picture(path):
            continue
        extension = split_path(path)[1]
        left_out.add(f"{f'.{extension}' if extension else 'file'} beside the splits", path)


# ----------------------------------------------------------------------------------------------------- samples


def grouped(
    tree: Tree, rows: Mapping[str, Mapping[str, Any]], used: Collection[str], left_out: LeftOut
) -> tuple[list[Sample], set[str]]:
    """One sample a picture, by path; files of the same name are part of it. Also the paths without a sample.

    Of several pictures of one name, those with a row in the metadata are samples of their own; else the first is one,
    and further ones are parts of it if an extension is in `used`, or left out.
    """
    pictures: dict[str, list[tuple[str, str]]] = {}
    parts: dict[str, dict[str, storage.FileInfo]] = {}
    known = [(path, *split_path(path)) for path in sorted(tree)]
    for path, stem, extension in known:
        if extension in PICTURES:
            pictures.setdefault(stem, []).append((path, extension))
        parts.setdefault(stem, {})[extension] = tree[path]
    useful = {*PICTURES, *ANNOTATIONS, *used}
    others = {path for path, stem, extension in known if extension not in useful or stem not in pictures}
    others = {path for path in others if path.rpartition("/")[2] not in (*METADATA, "classes.json", *used)}
    for path in sorted(others):
        left_out.add(_kind(path, tree[path]), path)
    folders = {path.rpartition("/")[0] for found in pictures.values() for path, _ in found}
    as_classes = len({folder.partition("/")[0] for folder in folders}) > 1 and "" not in folders
    samples = []
    for stem, found in pictures.items():
        folder = stem.partition("/")[0] if as_classes else ""
        if len(found) == 1:
            samples.append(Sample(stem, parts[stem], rows.get(found[0][0], {}) if rows else None, folder))
            continue
        chosen = [(path, extension) for path, extension in found if path in rows]
        named = len(chosen) > 1
        if not chosen:
            first = min(PICTURES.index(extension) for _, extension in found)
            chosen = [max(each for each in found if each[1] == PICTURES[first])]
        beside = {e: file for e, file in parts[stem].items() if e not in PICTURES or e in used}
        for path, extension in chosen:
            own = {**beside, extension: tree[path]}
            row = rows.get(path, {}) if rows else None
            samples.append(Sample(path if named else stem, own, row, folder))
        for path, extension in found:
            if (path, extension) not in chosen and extension not in used:
                left_out.add("picture of a name that another one has", path)
    return samples, others


def _kind(path: str, file: storage.FileInfo) -> str:
    """Reason for leaving a file without a sample."""
    extension = split_path(path)[1]
    if file.irregular:
        return file.irregular
    shown = f".{extension}" if extension else "without an extension"
    if _OTHER_FORMATS.fullmatch(extension):
        return f"{shown}, which is not opened"
    return f"{shown} without a picture" if extension in ANNOTATIONS else shown
