"""Foreign weights as files of our own: converted once, kept beside the copies of remote weights, found by content.

So whatever takes a run's folder or one of our files (a first stage that is reused, weights to start from) takes
foreign ones as well, and knows nothing of it. The converted files are the same bytes each time, so their hashes do as
identities.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import digest
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.recipe import artifacts
from ldm_core.recipe.artifacts import Find
from ldm_core.storage.failures import reported

_FORMAT = 1
"""Version of the files made here: raised when the same source would come out otherwise."""
_DONE: dict[tuple[object, ...], str] = {}
"""Conversions of this process by source, so that a file is hashed once."""


def finder(catalog: Catalog) -> Find:
    """A :data:`~ldm_core.recipe.artifacts.Find` that knows our files, and foreign weights by the codecs."""

    def find(url: str, name: str) -> str:
        return artifacts.find(url, name) if artifacts.is_native(url) else converted(url, name, catalog)

    return find


def converted(url: str, name: str, catalog: Catalog) -> str:
    """The path of the file `name` (a first stage's, a model's or an adapter's, as :mod:`ldm_core.recipe.artifacts`
    calls them) made of the foreign weights at `url`, now or earlier.

    Raises what reading raises, ConfigError with the command that converts by hand while something is unknown, and
    CheckpointError where the weights hold no such part.
    """
    mark = _mark(url)
    folder = _DONE.get(mark) if mark else None
    if folder is None or not Path(folder).is_dir():
        folder = _folder_of(url, catalog)
        if mark:
            _DONE[mark] = folder
    path = Path(folder) / name
    if not path.exists():
        part = {artifacts.STAGE_FILE: "first stage", artifacts.ADAPTER_FILE: "adapter"}.get(name, "denoiser")
        raise CheckpointError(f"{storage.shown(url)}: holds no {part}")
    return str(path)


def _mark(url: str) -> tuple[object, ...] | None:
    """Mark of the content at `url`, the same while it is unchanged; None = not known."""
    path = storage.local_path(url)
    if path is None:
        with contextlib.suppress(LDMError):
            found = storage.info(url)
            if found.mark:
                return url, found.size, found.mark
        return None
    from ldm_core.weights.source import open_source

    names = [] if path.is_file() else open_source(url).names  # a bounded number, or an error
    with reported("read", url):
        states = [(str(p), p.stat()) for p in ([path / n for n in names] or [path])]
    return url, *((p, state.st_size, state.st_mtime_ns) for p, state in states)


def _folder_of(url: str, catalog: Catalog) -> str:
    from ldm_core.weights import cache, write
    from ldm_core.weights.codecs import read_with, recognise, require_known
    from ldm_core.weights.source import open_source

    source = open_source(url)
    name, codec, found = recognise(source, catalog)
    try:
        require_known(found, url)
    except ConfigError as error:
        settings = " ".join(f"{key}=..." for key in found.unknown)
        place = shlex.quote(storage.shown(url))
        raise ConfigError(
            [
                *error.problems,
                f"convert it to codec ldm first: `weights.convert={place} FOLDER {settings}`; give FOLDER",
            ]
        ) from None
    key = digest({"format": _FORMAT, "codec": name, "content": source.sha256(), "recipe": dict(found.recipe)})
    folder = Path(cache.folder()) / "converted" / key[:32]
    if not folder.is_dir():
        weights = write.complete(read_with(name, codec, found, source, catalog), catalog)
        written = write.written_by("ldm", weights, folder.name, catalog, {"alone": True})
        write.require_room(str(folder), weights)
        write.put(written, str(folder), keep=True)
    return str(folder)
