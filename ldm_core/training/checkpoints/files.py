"""Training checkpoints as files: their names, their manifest, the newest whole one.

A checkpoint is a folder ``step-00001000-5f3a9c20`` of a new name, with the state in shards
(``state-00000.safetensors`` ...) and, written last, ``manifest.json`` with size and hash of each. A folder without a
fitting manifest is no checkpoint: a reader never sees half of one. Format 1 (one ``state.safetensors``, no random
word in the name) is read as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.contracts import EMPTY
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.recipe.continuation import MANIFEST as MANIFEST
from ldm_core.recipe.continuation import unlike
from ldm_core.recipe.keys import Plain
from ldm_core.storage.paths import is_name

FORMAT = 2
_NAME = re.compile(r"step-(\d{8,})(?:-[0-9a-f]+)?")
_CHUNK = 8 << 20


@attrs.frozen
class Found:
    """A whole checkpoint, as its manifest describes it."""

    url: str
    step: int
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return storage.base_name(self.url)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors by name, shard by shard: a local shard is mapped, a remote one held in memory while it lasts.

        Those of a remote shard are hashed again, since they come over the network anew.
        """
        for file, (digest, _) in _files(self.manifest).items():
            url = storage.join(self.url, file)
            path = storage.local_path(url)
            if path is not None:
                from safetensors import safe_open

                with safe_open(path, "pt") as shard:
                    for key in shard.keys():  # noqa: SIM118 - it is no mapping
                        yield key, shard.get_tensor(key)
            else:
                from safetensors.torch import load

                data = storage.read_bytes(url)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise CheckpointError(f"{storage.shown(url)} changed while it was read; try again")
                shard_tensors = load(data)
                del data
                yield from shard_tensors.items()


def _files(manifest: dict[str, Any]) -> dict[str, tuple[str, int | None]]:
    """File name -> (sha256, bytes)."""
    if manifest["format"] == 1:
        return {"state.safetensors": (str(manifest["sha256"]), None)}
    if not all(map(is_name, manifest["files"])):
        raise ValueError("it names a file of another place")
    return {name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder, None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def listed(folder: str) -> tuple[list[str], list[str]]:
    """The names of the checkpoints in `folder`, newest first, and those of unfinished folders.

    A silent storage is an error: taken for an empty folder, it would start the training anew.
    """
    if not storage.exists(folder):
        return [], []
    whole, begun = set(), set()
    for file in storage.list_files(folder, recursive=True):
        *_, name, last = file.url.replace("\\", "/").rsplit("/", 2)
        if step_of(name) is not None:
            begun.add(name)
            if last == MANIFEST:
                whole.add(name)
    local = storage.local_path(folder)
    if local is not None:  # an empty folder
        begun |= {p.name for p in local.iterdir() if p.is_dir() and step_of(p.name) is not None}
    return sorted(whole, key=lambda name: (step_of(name), name), reverse=True), sorted(begun - whole)


@attrs.frozen
class Search:
    """The checkpoints of a folder: the newest whole one, names of older ones, and the faults of newer ones."""

    found: Found | None
    older: tuple[str, ...]
    damaged: dict[str, str]


def newest(folder: str, identity: str, recipe: Plain = EMPTY) -> Search:
    """Look for the newest whole checkpoint of `folder`; every file of it is read and hashed, of older ones none.
    `recipe`: the plain values of the run's, to tell it from another's.

    :class:`CheckpointError` if it was made with another recipe or by a newer version, :class:`StorageError` if a
    remote storage does not answer.
    """
    damaged: dict[str, str] = {}
    names, _ = listed(folder)
    for position, name in enumerate(names):
        url = storage.join(folder, name)
        try:
            manifest = _manifest(url)
            if manifest["identity"] != identity:
                raise CheckpointError(f"{storage.shown(url)} {_of_another(manifest.get('recipe'), recipe)}")
            _verify(url, manifest)
        except _DamagedError as error:
            damaged[name] = f"checkpoint {storage.shown(url)} is damaged and passed over: {error}"
            continue
        return Search(Found(url, int(manifest["step"]), manifest), tuple(names[position + 1 :]), damaged)
    return Search(None, (), damaged)


def _of_another(before: object, now: Plain) -> str:
    """The words on a checkpoint of another identity; older ones keep no recipe."""
    if not isinstance(before, dict) or not now:
        return (
            "was made with another recipe or other data; if recipe.yaml was edited, set it back; or give another `out`"
        )
    if changed := unlike(before, now):
        few = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
        return f"was made with another recipe ({few}); set that back, or give another `out`"
    return (
        "was made by this recipe of other data, or on another first stage: what they hold has changed since; bring "
        "that back, or give another `out`"
    )


class _DamagedError(Exception):
    pass


def _manifest(url: str) -> dict[str, Any]:
    try:
        manifest = parse_json(_read(storage.join(url, MANIFEST)), "it", ValueError)
        if not 1 <= int(manifest["format"]) <= FORMAT:
            raise CheckpointError(
                f"{storage.shown(url)} has format {manifest['format']}, this version reads up to {FORMAT}; upgrade "
                "ldm-core"
            )
        _ = _files(manifest), int(manifest["step"]), manifest["identity"], dict(manifest["part_steps"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamagedError(f"its manifest does not read ({type(error).__name__}: {error})") from error
    return manifest


def _verify(url: str, manifest: dict[str, Any]) -> None:
    for file, (digest, size) in _files(manifest).items():
        place = storage.join(url, file)
        there, found = _hashed(place)
        if size is not None and there != size:
            raise _DamagedError(f"{file} has {there} bytes, its manifest says {size}")
        if found != digest:
            raise _DamagedError(f"the content of {file} does not match its manifest")


def _read(url: str) -> bytes:
    try:
        return storage.read_bytes(url)
    except StorageError as error:
        raise _judged(url, error) from error


def _hashed(url: str) -> tuple[int, str]:
    """Size and sha256 of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    try:
        with storage.open_read(url) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
    except StorageError as error:
        raise _judged(url, error) from error
    return size, digest.hexdigest()


def _judged(url: str, error: StorageError) -> Exception:
    """Take a file missing, or unreadable on its disk, for damage; a network failure is none."""
    if isinstance(error.__cause__, FileNotFoundError):
        return _DamagedError(f"{storage.base_name(url)} is missing")
    if storage.local_path(url) is not None:
        return _DamagedError(str(error))
    return error


_OWN = re.compile(r"state(-\d{5,})?\.safetensors|manifest\.json|\..*\.part")  # ours, of a checkpoint


def clean(folder: str) -> list[str]:
    """Remove the unfinished folders of a killed process; only under the run's lock. Gives the names.

    A folder with anything else than a checkpoint's files is someone's, and stays.
    """
    _, begun = listed(folder)
    return [name for name in begun if discard(storage.join(folder, name))]


def discard(url: str) -> bool:
    """Remove a checkpoint, its manifest first: after a failure half-way, no reader takes the rest for whole. False, and
    nothing is removed, if anything else than a checkpoint's files is in it."""
    path = storage.local_path(url)
    if path is not None:
        names = [p.name for p in path.iterdir()] if path.is_dir() else []
    else:
        files = storage.list_files(url, recursive=True) if storage.is_folder(url) else []
        names = [storage.base_name(file.url) for file in files]
    if not all(_OWN.fullmatch(name) for name in names):
        return False
    storage.remove(storage.join(url, MANIFEST))
    storage.remove(url, recursive=True)
    return True


def clean_parts(out: str) -> None:
    """Remove the temporary files of killed processes in the folder `out`."""
    local = storage.local_path(out)
    for part in local.glob(".*.part") if local is not None else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            process = int(part.name.split(".")[-3])  # storage's names end in .<process>.<random word>.part
            if not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
                part.unlink()
