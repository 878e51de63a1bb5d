"""Examples that cannot be read: replaced by others, counted by name, an error where they are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from ldm_core.contracts import Dataset
from ldm_core.contracts.answers import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.errors import DataError, clean

_SETTING = "set dataset."
Complete: TypeAlias = "Callable[[int, Mapping[str, Any]], Mapping[str, Any]]"


class BadExample(DataError):
    """One example that cannot be decoded: `name` and `why`. Loaders skip and count these (SkipBad)."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type[BadExample], tuple[str, str]]:
        return type(self), (self.name, self.why)  # it travels from loader workers to the main process


class TooManyBad(DataError):
    """More examples cannot be read than may; `bad`: name -> reason of those met so far."""

    def __init__(self, message: str, bad: Mapping[str, str]) -> None:
        super().__init__(message)
        self.bad = dict(bad)

    def __reduce__(self) -> tuple[type[TooManyBad], tuple[str, dict[str, str]]]:
        return type(self), (str(self), self.bad)


class SkipBad:
    """A dataset in which an undecodable example is replaced by the next good one, the same in every process; of a
    mixture, by the next of its own part.

    With `complete`, a function of an index and its example, examples are what it makes of them; one for which it raises
    :class:`BadExample` is bad as well. `bad` holds the names and reasons met so far, each example once. More than
    `limit` (a share of the examples; one at least may be bad, unless `limit` is 0) is a :class:`TooManyBad` naming the
    first few.
    """

    def __init__(self, dataset: Dataset, limit: float = 0.01, complete: Complete | None = None) -> None:
        self.dataset, self._complete = dataset, complete
        self.limit = limit
        self.bad: dict[str, str] = {}
        self.moved: dict[int, int] = {}
        """Index of a bad example -> index of the good one in its place, for those met in this process."""
        self.keys = dataset.keys
        self.classes = dataset.classes
        self.class_names = dataset.class_names
        self._sections = of(DatasetAnswers, dataset).sections
        self._apart: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.resolve(index)[1]

    def resolve(self, index: int) -> tuple[int, Mapping[str, Any]]:
        """The example at `index` or the next good one, and the index where it stands."""
        place = range(len(self))[index]
        first, size = self._part(place)
        start = place - first
        for step in range(size):
            place = first + (start + step) % size
            try:
                example = self.dataset[place]
                if self._complete is not None:
                    example = self._complete(place, example)
                if step:
                    self.moved[first + start] = place
                return place, example
            except BadExample as error:
                self._met(error)
        raise DataError(f"none of the {size} examples can be read; first: {next(iter(self.bad.items()), '')}")

    def _part(self, index: int) -> tuple[int, int]:
        """The first index and the number of the examples that may stand for `index`."""
        first = 0
        for section in self._sections:
            if index < first + section.length:
                return first, section.length
            first += section.length
        return 0, len(self)

    def _met(self, error: BadExample) -> None:
        if self._apart is None:
            self.add({error.name: error.why})
            return
        self._apart[error.name] = error.why
        self._check(self._apart)  # already too many by themselves: look no further

    def add(self, bad: Mapping[str, str]) -> None:
        """Count these too (name -> reason), such as other processes met; TooManyBad past the limit."""
        self.bad.update(bad)
        self._check(self.bad)

    def _check(self, bad: Mapping[str, str]) -> None:
        allowed = max(1, int(self.limit * len(self))) if self.limit else 0
        if len(bad) > allowed:
            few = "; ".join(f"{clean(name)}: {clean(why, 400)}" for name, why in list(bad.items())[:3])
            fix = f"repair or remove them, or raise dataset.max_bad ({self.limit})"
            if all(_SETTING in why for why in bad.values()):  # the data may be right as it is
                fix = "see the settings that are named there"
            raise TooManyBad(f"{len(bad)} examples of {len(self)} cannot be read, {allowed} may ({few}); {fix}", bad)

    @contextmanager
    def apart(self) -> Iterator[dict[str, str]]:
        """Inside, what is met goes into the dict instead of `bad`: for whoever counts to :meth:`add`."""
        met: dict[str, str] = {}
        self._apart = met
        try:
            yield met
        finally:
            self._apart = None

    def select(self, keys: Iterable[str]) -> SkipBad:
        """The same over a view of the data with only `keys`."""
        return SkipBad(self.dataset.select(keys), self.limit)

    def fingerprint(self) -> str:
        """That of the data."""
        return self.dataset.fingerprint()


def printable(text: str) -> str:
    """`text` on one line and without control characters: names in archives are anyone's."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
