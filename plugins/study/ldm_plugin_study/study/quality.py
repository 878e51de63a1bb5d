"""A cell's quality, by the installed command ``evaluate`` and the record in its folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from ldm_core import storage
from ldm_core.cli.catalog import installed
from ldm_core.config import documents
from ldm_core.errors import ComponentError, ConfigError

RECORD = "evaluation.json"
"""The file of an evaluation."""
ASKED = "asked.json"
"""The arguments of a finished cell."""


class Sampled(Protocol):
    """A cell of a study, as ``evaluate`` is told of it."""

    @property
    def steps(self) -> int | None:
        """Steps of the sampler; None where nothing is sampled."""

    @property
    def settings(self) -> Sequence[str]:
        """Settings of the sampling."""


@attrs.frozen(kw_only=True)
class Question:
    """The evaluation of every cell: the run, the metrics, the images, and further arguments of ``evaluate``."""

    run: str
    metrics: str
    value: str = ""
    """The name of the value that counts; "" = the first one."""
    images: int = 1000
    more: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    weights: str = ""
    """The hash of the run's weights: figures of others are not taken."""

    def arguments(self, cell: Sampled, out: str) -> list[str]:
        """The arguments of ``ldm-run evaluate`` for a cell."""
        words = [self.run, "--metrics", self.metrics, "--images", str(self.images)]
        words += [] if cell.steps is None else ["--steps", str(cell.steps)]
        return [*words, *self.more, "--out", out, "--json", *cell.settings, *self.settings]


@attrs.frozen(kw_only=True)
class Figure:
    """One value of a record."""

    name: str
    label: str
    value: float
    higher: bool
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    """The same measure between two halves of the reference, where there is one."""
    line: str = ""

    @property
    def better(self) -> str:
        """``higher`` or ``lower``."""
        return "higher" if self.higher else "lower"

    @property
    def head(self) -> str:
        """The name of the measured value in words, with its floor."""
        floor = "" if self.floor is None else f"; halves of the reference: {self.floor:.4g}"
        return f"{self.name} ({self.label}), {self.better} is better{floor}"

    def plain(self) -> dict[str, Any]:
        """Plain values of what is measured."""
        return {"name": self.name, "label": self.label, "higher_is_better": self.higher, "floor": self.floor}


def finished(question: Question, cell: Sampled, folder: str) -> bool:
    """Tell if a cell was evaluated with the same arguments and weights."""
    asked, record = storage.join(folder, ASKED), storage.join(folder, RECORD)
    if not (storage.exists(asked) and storage.exists(record)):
        return False
    return bool(documents.parse_json(storage.read_text(asked), asked) == _asked(question, cell))


def evaluate(question: Question, cell: Sampled, folder: str) -> None:
    """Evaluate a cell; a part of the rows from before is taken over. Raises what ``evaluate`` raises."""
    import json

    catalog = installed()
    if "evaluate" not in catalog.names("command"):
        raise ComponentError("study: quality is measured by the command evaluate; pip install ldm-plugin-metrics")
    command: Any = catalog.get("command", "evaluate")[0].component.load()
    arguments = question.arguments(cell, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        command.main(args=arguments, prog_name="ldm-run evaluate", standalone_mode=False)
    storage.atomic_write(storage.join(folder, ASKED), json.dumps(_asked(question, cell), indent=2) + "\n")


def _asked(question: Question, cell: Sampled) -> dict[str, Any]:
    return {"arguments": question.arguments(cell, ""), "weights": question.weights}


def figure(question: Question, folder: str) -> Figure:
    """The value that counts, of a cell's record. :class:`ConfigError` with the names if it has no such value."""
    return figures(question, folder)[0]


def figures(question: Question, folder: str) -> list[Figure]:
    """All values of a cell's record, the one that counts first; as :func:`figure`."""
    url = storage.join(folder, RECORD)
    record = documents.parse_json(storage.read_text(url), storage.shown(url))
    found = {name: (row, value) for row in _rows(record) for name, value in row["values"].items()}
    first = question.value or next(iter(found), "")
    if first not in found:
        raise ConfigError(f"value: '{question.value}' is no value of {question.metrics}; there are {', '.join(found)}")
    return [_figure(name, *found[name], record) for name in (first, *(each for each in found if each != first))]


def _figure(name: str, row: Mapping[str, Any], value: Mapping[str, Any], record: Mapping[str, Any]) -> Figure:
    low, high = value.get("interval", (None, None))
    return Figure(
        name=name,
        label=str(row["label"]),
        value=float(value["value"]),
        higher=bool(value["higher_is_better"]),
        low=low,
        high=high,
        floor=value.get("floor"),
        line=storage.told_without_folders(str(record.get("line", ""))),
    )


def _rows(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = record["metrics"]
    return rows
