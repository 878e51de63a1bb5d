"""Micro-batches of a run, step by step, made in this process or in workers; the same ones either way."""

from __future__ import annotations

import gc
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ldm_core.contracts import Batch
from ldm_core.data.collate import collate, floats, to_device
from ldm_core.data.unreadable import SkipBad
from ldm_core.errors import LDMError
from ldm_core.training.engine.world import World
from ldm_core.training.feed.order import Arrangement, Order, Place

if TYPE_CHECKING:
    pass


_TELL_EVERY = 16  # steps from one exchange on unreadable examples between a run's processes to the next
_SMALL = 1 << 20  # bytes of a batch sent by a worker, at most: shared memory costs more to set up
_AHEAD = 2  # micro-batches made ahead by each worker


@attrs.frozen
class MicroBatch:
    """The examples of one process for one backward pass."""

    batch: Batch
    places: tuple[Place, ...]

    def seeds(self, run_seed: int, purpose: str) -> list[int]:
        """One stream seed an example."""
        return [p.seed(run_seed, purpose) for p in self.places]


class Loader:
    """Micro-batches of the steps from a given one on; micro-batch a of rank r has the step's examples
    (a · ranks + r) · mb and following.

    `workers` processes read, decode, fit and collate ahead of the training; without them it is done in between. `bad`:
    the count of unreadable examples, those met by workers and by the other processes included.
    """

    def __init__(  # noqa: PLR0913
        self,
        fetch: Callable[[Place], Mapping[str, Any]],
        arrangement: Arrangement | int,
        keys: Mapping[str, str],
        *,
        images_per_step: int,
        accumulate: int,
        steps: int,
        world: World,
        seed: int,
        workers: int = 0,
        bad: SkipBad | None = None,
    ) -> None:
        self._fetch, self._keys, self._world, self._bad = fetch, keys, world, bad
        self._accumulate, self._steps, self._workers = accumulate, steps, workers
        self._micro = images_per_step // (world.size * accumulate)
        self._order = Order(arrangement, seed, images_per_step)

    def _places(self, start: int) -> Iterator[list[Place]]:
        for step in range(start, self._steps):
            for a in range(self._accumulate):
                first = (a * self._world.size + self._world.rank) * self._micro
                yield self._order.step(step, range(first, first + self._micro))

    def steps(self, start: int) -> Generator[list[MicroBatch], None, None]:
        """The micro-batches of each step, from step `start` (counted from 0) to the end; closing it ends the workers.

        Raises DataError if too many examples cannot be read, on every process at the same step.
        """
        device = self._world.device
        elsewhere = device.type != "cpu"
        with workers_as_asked():
            loader = DataLoader(
                _Fetch(self._fetch, self._keys, self._bad, small=0 if elsewhere or not self._workers else _SMALL),
                batch_sampler=_Lazy(lambda: self._places(start)),
                num_workers=self._workers,
                prefetch_factor=_AHEAD if self._workers else None,
                pin_memory=elsewhere,
                collate_fn=_same,
                worker_init_fn=begin_worker,
                generator=torch.Generator(),  # it draws a seed for its workers, otherwise from torch's global one
            )
            made = iter(loader)  # torch warns here once more
        micros: list[MicroBatch] = []
        news: dict[str, str] = {}
        step = start
        try:
            for places, batch, met in made:
                if isinstance(batch, LDMError):
                    raise batch
                news.update(met)
                # Images travel as bytes and become floats at their use: a quarter of the way's traffic.
                batch = floats(to_device(_as_tensors(batch), device, non_blocking=True), self._keys)
                micros.append(MicroBatch(batch, tuple(places)))
                if len(micros) == self._accumulate:
                    step += 1
                    self._tell(news, step)
                    yield micros
                    micros = []
        finally:
            del made  # and with it its workers: the traceback of an error would keep them

    def _tell(self, news: dict[str, str], step: int) -> None:
        """Count the examples met; of other processes at every few steps, as all of them come by here then."""
        if self._bad is None:
            return
        if self._world.size == 1:
            self._bad.add(news)
        elif step % _TELL_EVERY == 0 or step == self._steps:
            everyone = self._world.gather(news) if self._world.any(bool(news)) else []
            self._bad.add({name: why for theirs in everyone for name, why in theirs.items()})
        else:
            return
        news.clear()


class _Lazy:
    """A batch sampler; it makes its batches on demand."""

    def __init__(self, make: Callable[[], Iterator[list[Place]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[list[Place]]]:
        return ([places] for places in self._make())


class _Fetch(TorchDataset):
    """One item is a whole micro-batch, loaded and collated in the worker. With it go the unreadable examples met, or
    in place of it the user's mistake: raised there, it would lose its form on the way."""

    def __init__(
        self, fetch: Callable[[Place], Mapping[str, Any]], keys: Mapping[str, str], bad: SkipBad | None, small: int
    ) -> None:
        self._fetch, self._keys, self._bad, self._small = fetch, keys, bad, small

    def __getitem__(self, places: list[Place]) -> tuple[list[Place], Any, dict[str, str]]:
        met: dict[str, str] = {}
        with ExitStack() as stack:
            if self._bad is not None:
                met = stack.enter_context(self._bad.apart())
            try:
                examples = [self._fetch(p) for p in places]
            except LDMError as error:
                return places, error, {}
        batch = collate(examples, self._keys, raw=True)
        if sum(v.nbytes for v in batch.values() if isinstance(v, torch.Tensor)) <= self._small:
            batch = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        return places, batch, met


def _as_tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Turn bytes into tensors: :func:`collate` leaves no array by itself."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def begin_worker(number: int) -> None:
    """A signal for the whole process group is for the training process: it ends its step and its workers itself."""
    gc.freeze()  # forked objects are never looked through again, nor copied for it
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # a second one ends it


@contextmanager
def workers_as_asked() -> Iterator[None]:
    """Without torch's own word on more workers than cores: the run has said it before its begin."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _same(items: list[Any]) -> Any:
    return items[0]


def example_name(data: Any, made: Any, place: Place) -> str:
    """Name the example at `place` for a message: its name in the data, if it has one, and its number."""
    index = place.index if made is None else made.source(place.index)
    where = f"example {index} of epoch {place.epoch}"
    if "name" not in data.keys:
        return where
    return f"'{data.select(['name'])[index]['name']}' ({where})"
