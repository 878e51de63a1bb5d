"""The rows of several metrics over sets of pictures: each picture is made once, each source measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.contracts import SIZE_KEYS, Pictures
from ldm_core.data.collate import collate, to_device
from ldm_core.data.sizes import default_sizes
from ldm_core.errors import ConfigError
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training.engine.world import World
from ldm_plugin_metrics.evaluation.asked import Asked
from ldm_plugin_metrics.evaluation.models import SampledPictures, StageAlone
from ldm_plugin_metrics.evaluation.pictures import DataPictures, PictureSet, Taken
from ldm_plugin_metrics.evaluation.store import RowStore

BATCH = 32
"""Pictures measured at once. The same for any number of processes, and so are the bits of the rows."""
Tell = Callable[[str, int, int], None]
"""Told of a set's name, the number of its finished pictures, and of all."""


@attrs.frozen(eq=False)
class Work:
    """A set of pictures, the stores of its rows by source, and a metric of each source."""

    pictures: PictureSet
    stores: Mapping[str, RowStore]
    metrics: Mapping[str, Asked]
    pipeline: Pipeline | StageAlone | None = None

    def reads(self, each: Asked) -> list[str]:
        """The keys of examples for a metric: its own, and the model's for one that calls it."""
        own = [key for key in each.config.reads if key != "image"]
        models = () if self.pipeline is None or not each.config.needs_pipeline else self.pipeline.reads
        return [key for key in dict.fromkeys((*own, *models)) if key not in SIZE_KEYS]

    @property
    def keys(self) -> list[str]:
        """The keys of examples for all of them."""
        return sorted({key for each in self.metrics.values() for key in self.reads(each)})

    def check(self) -> None:
        """ConfigError if the pictures lack a key of a metric."""
        for each in self.metrics.values():
            if lacking := [key for key in self.reads(each) if key not in self.pictures.keys]:
                raise ConfigError(
                    f"{each.name}: reads '{lacking[0]}', and the {self.pictures.name} have "
                    f"{', '.join(self.pictures.keys)} alone"
                )
            if each.config.needs_pipeline and isinstance(self.pictures, DataPictures):
                self._hold_classes(each, self.pictures.class_names)

    def _hold_classes(self, metric: Asked, names: Mapping[str, Sequence[str]]) -> None:
        ours = {} if self.pipeline is None else self.pipeline.class_names
        for key in self.reads(metric):
            if names.get(key) and ours.get(key) and list(names[key]) != list(ours[key]):
                raise ConfigError(
                    f"{metric.name}: the classes of '{key}' are others in the {self.pictures.name} than in the model's "
                    f"training ({len(names[key])} and {len(ours[key])} of them, or in another order); give data with "
                    "the same classes"
                )


def fill(work: Work, world: World, tell: Tell) -> None:
    """Make the missing rows: of this process's blocks, block b of process b modulo their number.

    Each block is written as it is done; the next call goes on behind it.
    """
    blocks = next(iter(work.stores.values())).blocks if work.stores else []
    own = blocks[world.rank :: world.size]
    lacking = {block: [s for s, store in work.stores.items() if not store.has(block)] for block in own}
    asked = [block for block in own if lacking[block] or not _kept(work.pictures, block)]
    taken = _ahead(work, asked)
    for block in own:
        if block in asked:
            pictures = next(taken)
            for source, rows in _measured(work, block, pictures, lacking[block], world.device).items():
                work.stores[source].write(block, rows)
        tell(work.pictures.name, block.stop, len(work.pictures))


def _kept(pictures: PictureSet, block: range) -> bool:
    return not isinstance(pictures, SampledPictures) or pictures.kept(block)


def _ahead(work: Work, blocks: Sequence[range]) -> Iterator[Taken]:
    """The pictures of the blocks in order; those of data are read while the ones before them are measured."""
    keys = work.keys
    if not isinstance(work.pictures, DataPictures):
        yield from (work.pictures.take(block, keys) for block in blocks)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(work.pictures.take, block, keys) for block in blocks[:1]]
        for number in range(len(blocks)):
            current = coming.pop(0).result()
            coming += [reader.submit(work.pictures.take, block, keys) for block in blocks[number + 1 : number + 2]]
            yield current


def _measured(
    work: Work, places: range, taken: Taken, sources: Sequence[str], device: torch.device
) -> dict[str, dict[str, NDArray[Any]]]:
    made: dict[str, list[dict[str, NDArray[Any]]]] = {source: [] for source in sources}
    for start in range(0, len(places), BATCH):
        batch = slice(start, start + BATCH)
        pictures = _on_device(work, taken, places, batch, device)
        for source in sources:
            made[source].append(work.metrics[source].measure(pictures))
    return {s: {name: np.concatenate([each[name] for each in rows]) for name in rows[0]} for s, rows in made.items()}


def _on_device(work: Work, taken: Taken, places: range, batch: slice, device: torch.device) -> Pictures:
    keys, originals = work.keys, taken.originals
    sizes = {} if work.pipeline is None else default_sizes(work.pictures.size, work.pipeline.reads)
    rows = [{**sizes, **{key: each[key] for key in keys}} for each in taken.examples[batch]] if keys or sizes else []
    kinds = {key: work.pictures.keys[key] for key in keys}
    return Pictures(
        torch.from_numpy(taken.images[batch]).to(device),
        places[batch],
        to_device(collate(rows, kinds), device) if rows else {},
        None if originals is None else torch.from_numpy(originals[batch]).to(device),
        work.pipeline,
    )
