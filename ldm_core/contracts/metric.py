"""The contract of metrics: numbers of a set of pictures, from one row of values a picture. Provisional."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import attrs

from ldm_core.contracts.provisional import cooperative_init
from ldm_core.contracts.values import EMPTY, Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")

Rows: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Arrays (N, ...) by name, with one row a picture; some may lie in files, as numpy's memmaps."""


@attrs.frozen(eq=False)
class Pictures:
    """Some pictures of a set, and what is known of each."""

    images: Tensor
    """(B, c, H, W), uint8, on the device of the metric's tensors."""
    places: Sequence[int] = ()
    """The place of each in its set, from 0."""
    examples: Batch = EMPTY
    """The keys that the config `reads`, collated: the inputs of a sample, the example of a picture of the data. For a
    config that says `needs_pipeline` the keys that the pipeline `reads` are there too."""
    originals: Tensor | None = None
    """(B, c, H, W), uint8: the picture of the data that each reconstruction is of."""
    pipeline: Any = None
    """The :class:`ldm_core.Pipeline` under evaluation, for a config that says `needs_pipeline`."""
    _made: dict[Hashable, Any] = attrs.field(factory=dict, repr=False, init=False)

    def again(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, or what it gave for an equal `key` of these pictures before: metrics share a network's features
        by it."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found


@runtime_checkable
class Metric(Protocol):
    """Numbers of a set of pictures, alone or against another set. Provisional.

    Rows are made picture by picture, in any order, batch and process, and kept beside the pictures' places; `values` is
    called once they are all there, again for parts of a set (halves, resampled rows), and for rows of a cache. Metrics
    with equal sources have equal rows, which are made once. So a metric holds no state of a set. The ``sums`` of two
    sets, added entry by entry, are the sums of both together. It may be a module; the core moves it to the device, and
    it is picklable. :class:`~ldm_core.contracts.MetricAnswers` lists its optional answers,
    :class:`~ldm_core.contracts.MetricConfig` those of its config. What a user can mend (too few pictures, a size or a
    number of channels that does not fit, rows that are not finite) is an :class:`~ldm_core.errors.LDMError`, and never
    a number.
    """

    source: str
    """Everything that decides the rows, in one line: the network, its weights by their hash, the layer, the resize.
    Rows of a cache are found by it, and those of a metric that needs the pipeline by the pipeline's weights too."""
    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def measure(self, pictures: Pictures) -> Rows:
        """Pictures (B) -> arrays (B, ...) of finite numbers; row i is of picture i alone. The network is asked in
        float32, and what several metrics need of a batch they take by ``pictures.again``."""
        ...

    @abstractmethod
    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The rows of two sets, or their ``sums``, -> finite numbers by name. Their order in a set does not matter.

        `against` is None where the config says "nothing". With fewer pictures than `least` on either side it raises
        an LDMError that names both numbers. Equal calls give equal numbers.
        """
        ...
