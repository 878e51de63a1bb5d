"""A run's weights and their presets: looked at before, written at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.training.folder.lock import Lock
from ldm_core.training.folder.own_files import OwnFiles
from ldm_core.weights import presets
from ldm_core.weights.presets import Preset
from ldm_plugin_study.tune.measure import Tell


@contextmanager
def held(run: str, tell: Tell) -> Iterator[None]:
    """Hold the lock of the run's folder against a training meanwhile. ConfigError at once for a read-only place."""
    try:
        if storage.protocol(run) in ("http", "https"):
            raise StorageError("http is read only")
        lock = Lock.take(run, tell)
    except StorageError as error:
        raise ConfigError(
            f"{storage.shown(run)}: cannot be written, so its weights take no presets ({error}); give `no_presets`, "
            "and a folder with `out`"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write(run: str, made: Mapping[str, Preset], catalog: Catalog, sha256: str) -> None:
    """Write the presets into the run's model, still of this hash, and its new content into the list of the run's own
    files."""
    url, listed = storage.join(run, artifacts.MODEL_FILE), OwnFiles.read(run)
    ours = listed.owns(artifacts.MODEL_FILE)
    if ours:
        listed.note({artifacts.MODEL_FILE: None})  # until the new content is known, any is the run's
    presets.write(url, made, catalog, sha256=sha256)
    if ours:
        listed.adopt([artifacts.MODEL_FILE])
