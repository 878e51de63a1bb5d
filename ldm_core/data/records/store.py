"""A stored sample and the store that its bytes come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray


@attrs.frozen(eq=False)
class Boxes:
    """A picture's boxes from annotation files: `corners` (N, 4) x, y twice, in `units` (pixels of `size`, (H, W), or of
    the picture itself), and their classes. `place`: the file, for messages."""

    corners: NDArray[np.float64]
    labels: tuple[int | str, ...]
    units: Literal["fraction", "pixel"] = "fraction"
    size: tuple[float, float] | None = None
    place: str = ""


@attrs.frozen
class Sample:
    """One sample as stored: `parts` extension -> where its bytes are (the store's own business)."""

    name: str
    parts: Mapping[str, Any]
    row: Mapping[str, Any] | None = None
    """Fields from a metadata file."""
    folder: str = ""
    """The sub-folder that stands for its class, if any."""
    boxes: Boxes | None = None
    """Boxes from annotation files, if there are some of it."""


class Store(Protocol):
    """Place of the samples; picklable, safe to use from forked and spawned workers."""

    title: str
    """Name in messages: the URL without credentials."""
    class_names: Mapping[str, tuple[str, ...]]
    """Names of classes, by key, that annotation files say."""

    @property
    def samples(self) -> Sequence[Sample]:
        """All samples, in a fixed order."""
        ...

    def size(self, sample: Sample, extension: str) -> int:
        """The number of bytes of one part."""
        ...

    def fetch(self, sample: Sample, extension: str, most: int | None = None) -> bytes:
        """The bytes of one part, or its first `most`."""
        ...

    def called(self, sample: Sample, extension: str) -> str:
        """Name of one part in messages: the sample's name with folder and extension."""
        ...

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes | None]:
        """The bytes of many small parts, in order; None for one that cannot be read."""
        ...

    def beside(self, name: str) -> bytes | None:
        """A file that lies beside the data, such as ``classes.json``."""
        ...

    def notes(self) -> str:
        """A line on unread files; empty if there are none."""
        ...

    def digest(self, former: bool = False) -> str:
        """Hash of names, sizes and etags of all that is read; `former`: as 0.1.0 made it."""
        ...
