"""Examples of a data set for a look: views by key, and a list of unreadable ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Dataset, DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError
from ldm_plugin_datasheet.amounts import places

Tell = Callable[[str, int, int], None]
"""Told of the progress: the look's name, examples done, examples in all."""


def silent(name: str, done: int, count: int) -> None:
    """Say nothing."""


class Examples:
    """The examples of `dataset`, drawn by `seed`. `bad`: name -> reason of the unreadable ones met."""

    def __init__(self, dataset: Dataset, seed: int, tell: Tell = silent) -> None:
        self.dataset, self.seed, self.tell = dataset, seed, tell
        self.answers = of(DatasetAnswers, dataset)
        self.keys = dict(dataset.keys)
        self.bad: dict[str, str] = {}
        self.why: dict[str, str] = {}
        """Keys without a view -> the reason."""
        self._views: dict[tuple[str, ...], Any] = {}

    def view(self, *keys: str) -> Any | None:
        """The view with `keys` alone; None if the data set refuses it, with the reason in `why`."""
        if keys not in self._views:
            try:
                self._views[keys] = self.dataset.select(keys)
            except DataError as error:
                self.why[keys[-1]] = str(error)
                self._views[keys] = None
        return self._views[keys]

    def pictures(self) -> Any:
        """The view with pictures alone. DataError if the data set refuses it."""
        found = self.view("image")
        if found is None:
            raise DataError(self.why["image"])
        return found

    def have(self, key: str) -> int:
        """The number of examples with `key`."""
        view = self.view(key)
        return 0 if view is None else len(view)

    def whole(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` present in every example."""
        return [key for key in keys if self.have(key) == len(self.dataset)]

    def read(self, view: Any, index: int) -> Mapping[str, Any] | None:
        """Example `index` of `view`; None, and a line in `bad`, if it does not read."""
        try:
            found: Mapping[str, Any] = view[int(index)]
            return found
        except BadExample as error:
            self.bad.setdefault(error.name, error.why)
            return None

    def some(self, view: Any, most: int) -> NDArray[np.int64]:
        """The indices of at most `most` examples of a view; see :func:`places`."""
        return places(most, len(view), self.seed)

    def each(self, name: str, view: Any, indices: Sequence[int] | NDArray[np.int64]) -> Iterator[Mapping[str, Any]]:
        """The readable examples at `indices`, in the order of the data; `name` is the look's, for the progress."""
        count = len(indices)
        for done, index in enumerate(np.sort(np.asarray(indices, dtype=np.int64)), 1):
            example = self.read(view, index)
            if example is not None:
                yield example
            self.tell(name, done, count)
