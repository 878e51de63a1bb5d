"""The choice of a reader by the files at a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import DatasetConfig
from ldm_core.contracts.configs import of
from ldm_core.data.records.folder_layout import LeftOut, is_picture, without_runs
from ldm_core.errors import DataError, StorageError


def guess_reader(url: str, catalog: Catalog | None = None) -> str:
    """``tar`` or ``folder``: the reader for the files at ``url``. DataError if nothing is there.

    Tars that are named as shards win over a few pictures beside them, and pictures over any other tar. Many of both
    are a question to the user. Where neither lie, a data set of `catalog` that recognises the names is taken, of
    those in a folder `data` too, as repositories of data have it.
    """
    if not str(url).strip():
        raise DataError("`dataset`: empty; give the path or URL of tars or of a folder of pictures")
    plain = url.lower().split("?")[0]
    if plain.endswith((".tar", ".tgz")) or ".tar." in storage.base_name(plain):
        return "tar"
    try:
        roots = storage.expand(url)
        files = [file.url for root in roots for file in storage.list_files(root)]
        tars = [each for each in files if each.lower().endswith(".tar")]
        if not tars:
            return _recognising(url, files, catalog) or _recognising(url, _inner(roots, files), catalog) or "folder"
        shards = [each for each in tars if _is_shard(each)]
        pictures = [each for each in files if is_picture(each)]
        local = all(storage.local_path(root) is not None for root in roots)
        if not pictures and (local or not shards):  # class folders with tars beside them, or tars alone
            pictures = [each for root in roots for each in _pictures_below(root)]
    except StorageError as error:
        raise DataError(f"`dataset`: {error}") from error
    if shards and len(pictures) > len(shards):
        where = storage.shown(url)
        raise DataError(
            f"`dataset`: {where} holds {len(shards)} tars ({storage.base_name(shards[0])}) and "
            f"{len(pictures)} pictures ({storage.base_name(pictures[0])}); "
            "say which are meant, with dataset.use=tar or dataset.use=folder"
        )
    return "tar" if shards or not pictures else "folder"


def kept_settings(before: object, use: str) -> dict[str, Any]:
    """A recipe's settings of its data set (fields to read, classes), as far as they hold for other data of the same
    form, under the reader `use`; those without a reader's name are for any."""
    kept = dict(before) if isinstance(before, Mapping) else {}
    own = kept.get("use")
    if own not in (None, use) and (own not in ("tar", "folder") or use not in ("tar", "folder")):
        return {}
    if use != "tar":
        kept.pop("keep_bytes", None)
    return kept


def _recognising(url: str, files: Sequence[str], catalog: Catalog | None) -> str:
    """The data set that recognises `files`; "" for none, or beside pictures. DataError for several."""
    if catalog is None or any(is_picture(each) for each in files):
        return ""
    names = [storage.base_name(each) for each in files]
    found = []
    for entry, config in catalog.configs("dataset"):
        recognises = of(DatasetConfig, config).recognises
        if recognises is not None and recognises(names):
            found.append(entry.component.name)
    if len(found) > 1:
        raise DataError(
            f"`dataset`: {' and '.join(found)} both read the files of {storage.shown(url)}; say which, with "
            f"dataset.use={found[0]}"
        )
    return found[0] if found else ""


def _inner(roots: Sequence[str], files: Sequence[str]) -> list[str]:
    """The files of a folder `data` in a place that holds nothing to read itself."""
    if len(roots) != 1 or any(map(is_picture, files)) or storage.protocol(roots[0]) in ("http", "https"):
        return []
    folder = storage.join(roots[0], "data")
    return [file.url for file in storage.list_files(folder)] if storage.is_folder(folder) else []


def _pictures_below(root: str) -> list[str]:
    """The pictures in a folder and its sub-folders, those of runs left aside."""
    tree = {file.url: file for file in storage.list_files(root, recursive=True)}
    return [url for url in without_runs(tree, root, LeftOut()) if is_picture(url)]


def _is_shard(url: str) -> bool:
    """True if a tar's name has a split or a number, as those of shards do."""
    stem = storage.base_name(url).rpartition(".")[0]
    return bool(split_of(url) or re.search(r"\d{3,}$", stem))


_SPLIT_WORDS = ("train", "val", "valid", "validation", "test", "dev")


def split_of(url: str) -> str:
    """``val`` of ``.../emoji-val-000000.tar``; empty where the name holds no split word."""
    words = re.split(r"[-_.]", storage.base_name(url).lower())
    return next((word for word in words if word in _SPLIT_WORDS), "")
