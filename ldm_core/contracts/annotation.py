"""Boxes of pictures in files of other tools: what a reader of such a format is handed and gives back. Imports no torch.

A format is a component of the kind ``annotation``. It knows one form of files, and nothing of the data set: it is
handed files to read, never a path to open, and names pictures as its files do. The core finds these among the data
set's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs


@attrs.frozen(kw_only=True, eq=False)
class Annotated:
    """The boxes of one picture, or some of them: several of one picture are put together in their order.

    `picture`: its name as the file has it, with or without folders and extension. `boxes` (N, 4) numbers x, y of the
    upper left and of the lower right corner, in `units`: shares of the picture's sides, or pixels of `size` (height,
    width), by itself the picture's own. `labels` (N,): the classes' names, or their numbers from 0 on. `place`: file
    and line, for messages.
    """

    picture: str
    boxes: Any
    labels: Sequence[int | str]
    units: Literal["fraction", "pixel"] = "fraction"
    size: tuple[float, float] | None = None
    place: str = ""


@attrs.frozen(kw_only=True, eq=False)
class Annotations:
    """All that the files say: `rows`, read once and possibly as it is iterated; `class_names` in the order of the
    numbers, () where the files have no list (then names are sorted, or numbers have none); `left_out`, what is no
    object (``crowd region``) and how many there were, complete once `rows` have been read."""

    rows: Iterable[Annotated]
    class_names: Sequence[str] = ()
    left_out: Counter[str] = attrs.field(factory=Counter)


@runtime_checkable
class AnnotationFiles(Protocol):
    """The files that may be read: `names`, the paths of those that the user named; `beside`, of others in their folders
    and in those above, where lists of classes may lie. `pictures`: the paths of all pictures of the split."""

    names: Sequence[str]
    beside: Sequence[str]
    pictures: Sequence[str]

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one of those, or its first `most`; DataError for a file that is too large to be read whole."""
        ...

    @abstractmethod
    def lines(self, name: str) -> Iterator[str]:
        """Its lines as UTF-8 text without their ends, one after the other, however long the file is. DataError naming
        the line for other text, and for one longer than a megabyte."""
        ...


@runtime_checkable
class AnnotationFormat(Protocol):
    """Reads one format. Provisional. Its factory is called as every component's, ``factory(config, site)``.

    It reads through :class:`AnnotationFiles` alone, runs nothing that a file holds and follows no name in one. A
    mistake in a file is a DataError with the file, the line where there is one, what is wrong and what is allowed,
    never another exception. It touches no global state.
    """

    @abstractmethod
    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """Those of ``files.names`` that it reads, by names and beginnings; () for files of another format."""
        ...

    @abstractmethod
    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """The annotations in the files `names`, those that :meth:`recognise` gave."""
        ...
