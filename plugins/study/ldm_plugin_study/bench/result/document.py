"""The result of a measurement: a document of plain numbers, in a file and back. Imports no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from ldm_core import storage
from ldm_core.config import documents
from ldm_core.config.structure import structure, unstructure
from ldm_core.errors import ConfigError

FORMAT = "ldm-bench 1"
"""The first value of a file."""


@attrs.frozen(kw_only=True)
class Machine:
    """The hardware of a measurement, and as much of it as was used."""

    device: str
    """``cpu``, or the name of the GPU."""
    processor: str
    cores: int
    """Logical cores open to the process."""
    threads: int
    """Threads of torch."""
    instructions: tuple[str, ...]
    """The sets of vector and matrix instructions."""
    memory: int
    """Bytes of memory for the process."""
    device_memory: int = 0
    """Bytes of the GPU's memory; 0 without one."""


@attrs.frozen(kw_only=True)
class Software:
    """The programs of a measurement."""

    system: str
    python: str
    torch: str
    cuda: str = ""
    libraries: str = ""
    """The libraries of matrix products and their settings."""
    distributions: dict[str, str] = attrs.field(factory=dict)
    """Distribution of the recipe's parts -> version."""


@attrs.frozen(kw_only=True)
class Settings:
    """The way of the measurement."""

    batch: int
    rounds: int
    least: float
    """Seconds of a component in a round, at least."""
    sampler_steps: int
    precisions: tuple[str, ...]
    clock: Literal["wall", "processor"] = "wall"
    """The counted time: the clock's, or the processor's for this process."""


@attrs.frozen(kw_only=True)
class Peak:
    """The largest rate of matrix products of one precision: of square matrices of `size`, in FLOP/s."""

    precision: str
    size: int
    rate: float


@attrs.frozen(kw_only=True)
class Row:
    """One component at one precision. `seconds`, one a round, and `flops` are those of one part of a call, such as a
    step of the sampler, on `amount` images, or bytes for ``storage``."""

    component: str
    precision: str
    amount: int
    seconds: tuple[float, ...]
    flops: int = 0
    """Floating-point operations of matrix products, convolutions and attention; a multiplication and its addition are
    two."""
    parameters: int = 0
    memory: int | None = None
    """Bytes of a call at its peak, beyond those of the weights; None = not measured."""
    kinds: dict[str, float] = attrs.field(factory=dict)
    """The share of each kind of operation in the time of a call."""

    @property
    def median(self) -> float:
        """The middle of the rounds' seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quarter of the rounds' seconds: half of the rounds lie between them."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def flop_rate(self) -> float:
        """FLOP/s of the middle round."""
        return self.flops / self.median


@attrs.frozen(kw_only=True)
class Document:
    """A whole measurement."""

    format: str = FORMAT
    machine: Machine
    software: Software
    recipe: dict[str, Any]
    """The recipe with every setting, without credentials."""
    settings: Settings
    peaks: tuple[Peak, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    others: float | None = None
    """Cores in use by other programs meanwhile, on average; None = not known."""
    memory_by: str = ""
    """The method for memory."""

    def share(self, row: Row) -> float | None:
        """A component's share of the machine's peak at its precision; None without operations."""
        rate = next((p.rate for p in self.peaks if p.precision == row.precision), 0.0)
        return row.flop_rate / rate if rate and row.flops else None

    def row(self, component: str, precision: str) -> Row | None:
        """The row of a component at a precision, if it was measured."""
        return next((r for r in self.rows if (r.component, r.precision) == (component, precision)), None)

    def plain(self) -> dict[str, Any]:
        """Plain values, with those derived from them: the median, quartiles, rate and share of each row."""
        out = dict(unstructure(self))
        out["rows"] = [{**plain, **self._derived(row)} for plain, row in zip(out["rows"], self.rows, strict=True)]
        return out

    def _derived(self, row: Row) -> dict[str, Any]:
        return {
            "median": row.median,
            "quartiles": list(row.quartiles),
            "flop_rate": row.flop_rate,
            "share": self.share(row),
        }


DERIVED = ("median", "quartiles", "flop_rate", "share")
"""Keys of a file's rows, derived from the others."""


def write(document: Document, url: str, *, force: bool = False) -> None:
    """Write a document as JSON; :class:`ConfigError` if something else is there and `force` is not given."""
    if not force:
        require_free(url)
    storage.atomic_write(url, json.dumps(document.plain(), indent=2) + "\n")


def require_free(url: str) -> None:
    """:class:`ConfigError` if something is at `url`."""
    if storage.exists(url):
        raise ConfigError(f"out: {storage.shown(url)} is there already; give another name, or `force` to replace it")


def read(url: str) -> Document:
    """Read a document; :class:`ConfigError` for any other file."""
    where = storage.shown(url)
    plain = documents.parse_json(storage.read_text(url), where)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ConfigError(f"{where}: holds no measurement of `ldm-run bench` (format: {FORMAT}); give one of its files")
    rows = plain.get("rows")
    if isinstance(rows, list):
        own = [{k: v for k, v in r.items() if k not in DERIVED} if isinstance(r, dict) else r for r in rows]
        plain = {**plain, "rows": own}
    found: Document = structure(plain, Document, where)
    _require_rounds(found.rows, where)
    return found


def _require_rounds(rows: Sequence[Row], where: str) -> None:
    for row in rows:
        if not row.seconds or min(row.seconds) <= 0:
            raise ConfigError(f"{where}: rows.{row.component}: expected seconds above 0, one a round")
