"""The way of data to the model: the loader, and reads of storage."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

import attrs

from ldm_core import storage
from ldm_core.contracts import DatasetConfig
from ldm_core.contracts.configs import of
from ldm_core.errors import StorageError
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import arrange
from ldm_core.training.feed.loader import Loader
from ldm_plugin_study.bench.gauge.subject import Subject

_STEPS = 1 << 40  # of the loader: it never ends
_MOST = 64 << 20  # bytes of one call's reads
_FILES = 256
_OWN = 32 << 20  # bytes of the file that is read where the data have none


def loader(subject: Subject) -> Callable[[], object]:
    """A call that makes the next batch of a training run, in this process: without the helpers of `data.workers`
    and the memory of `data.keep`."""
    recipe, examples = subject.recipe, subject.examples
    batches = Loader(
        examples,
        arrange(subject.data, attrs.evolve(recipe.data, buckets=()), recipe.image_size),
        examples.keys,
        images_per_step=subject.count,
        accumulate=1,
        steps=_STEPS,
        world=World(0, 1, subject.device),
        seed=recipe.seed,
        bad=examples.dataset,
    ).steps(0)
    return lambda: next(batches)


@attrs.frozen(eq=False)
class Reads:
    """Reads of storage: the `size` in bytes of one call, the `call`, and `forget`, to be called before: the system
    forgets the files' content. Linux can be told to, of local files; elsewhere `forget` is None."""

    size: int
    call: Callable[[], object]
    forget: Callable[[], object] | None


def reads(subject: Subject) -> Reads:
    """Reads of the data's own files; of data without any, such as generated ones, of a temporary file."""
    parts = list(_files(subject))
    if not parts:
        own = tempfile.NamedTemporaryFile(prefix="ldm-bench-")  # noqa: SIM115  (it goes with the call)
        own.write(os.urandom(_OWN))
        own.flush()
        os.fsync(own.fileno())
        return Reads(_OWN, lambda: (storage.read_bytes(own.name), own), _forgetting([own.name]))

    def read() -> None:
        for url, size in parts:
            storage.read_bytes(url, 0, size)

    places = [storage.local_path(url) for url, _ in parts]
    local = [os.fspath(place) for place in places if place is not None]
    return Reads(sum(size for _, size in parts), read, _forgetting(local) if len(local) == len(parts) else None)


def _files(subject: Subject) -> Iterator[tuple[str, int]]:
    """The first files of the recipe's data and the bytes to read of each."""
    left = _MOST
    for part in subject.recipe.datasets:
        url = of(DatasetConfig, part.config).url
        if not url:
            continue
        with contextlib.suppress(StorageError):
            found = storage.list_files(url, recursive=True) if storage.is_folder(url) else []
            for file in found[:_FILES] or [storage.info(each) for each in storage.expand(url)[:_FILES]]:
                if file.size and left:
                    size = min(file.size, left)
                    left -= size
                    yield file.url, size


def _forgetting(paths: list[str]) -> Callable[[], object] | None:
    if sys.platform != "linux":
        return None

    def forget() -> None:
        for path in paths:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return forget
