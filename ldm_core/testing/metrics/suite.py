"""The conformance suite of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.contracts import Metric, MetricAnswers, MetricConfig, Rows, configs
from ldm_core.errors import LDMError
from ldm_core.testing.base import generators, same
from ldm_core.testing.metrics.rows import MeasuredRows
from ldm_core.testing.rules import Rule, must_raise

ORDER = Rule(
    Metric.values,
    "Their order in a set does not matter",
    "reduce over the rows by sums, means and sorted values; choose subsets by the rows' contents, not their places",
)


class Known(NamedTuple):
    """Rows whose numbers are known: `own`, `against`, and the expected `values`, by name, within `rel` of each."""

    own: Rows
    against: Rows | None
    values: Mapping[str, float]
    rel: float = 1e-6


class MetricSuite(MeasuredRows):
    """Subclass it, set `component` and `settings`, and say with :meth:`known` which rows have which number.

    `count` pictures a side are measured, at least the metric's `least`. A config that reads keys beyond the standard
    examples extends :meth:`examples`; the metric of a model sets `pipeline`.
    """

    def known(self) -> Known:
        """Rows and their numbers by a closed form."""
        raise AssertionError(f"{type(self).__name__} does not say what `values` gives for rows with a known number")

    def values(self, metric: Metric, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The numbers of two sets of rows, by sums where the metric has them."""
        with torch.no_grad():
            return metric.values(self._summed(metric, own), None if against is None else self._summed(metric, against))

    # ------------------------------------------------------------------------------------------ standard tests

    @Rule(
        Metric.values,
        "finite numbers by name",
        "give a dict of floats under the same names at each call, and raise an LDMError where there is no number",
    )
    def test_values_are_finite_numbers(self) -> None:
        """Enough pictures give finite floats by name, and the names that are better if higher are among them."""
        metric = self.build()
        found = self.values(metric, *self._sets(metric))
        assert isinstance(found, Mapping) and found, f"values gives {found!r}"
        for name, value in found.items():
            assert isinstance(value, float | int) and math.isfinite(value), f"{name} is {value!r}"
        unknown = set(configs.of(MetricConfig, self.config()).higher_is_better).difference(found)
        assert not unknown, (
            f"higher_is_better names {', '.join(sorted(unknown))}, and the values are {', '.join(found)}"
        )

    @Rule(
        Metric.values, "Equal calls give equal numbers", "draw subsets from a generator with a fixed seed of your own"
    )
    def test_values_repeat_themselves(self) -> None:
        """Equal calls give equal numbers, draw from no global generator and change no row."""
        metric = self.build()
        own, against = self._sets(metric)
        kept = {name: value.copy() for name, value in own.items()}
        before = generators()
        first, second = self.values(metric, own, against), self.values(metric, own, against)
        assert first == second, f"two equal calls give {dict(first)} and {dict(second)}"
        assert same(before, generators()), "values draws from a global generator"
        assert same(kept, own), "values changes the rows"

    @ORDER
    def test_the_order_does_not_matter(self) -> None:
        """Rows in another order have the same numbers, to 1e-6 of each."""
        metric = self.build()
        own, against = self._sets(metric)
        plain = self.values(metric, own, against)
        turned = self.values(metric, _turned(own), None if against is None else _turned(against))
        for name, value in plain.items():
            assert math.isclose(turned[name], value, rel_tol=1e-6, abs_tol=1e-9), (
                f"{name}: {value}, then {turned[name]}"
            )

    @Rule(
        Metric,
        "added entry by entry, are the sums of both together",
        "sum over the rows in float64, and divide by their number in `values`",
    )
    def test_sums_of_parts_are_the_sums_of_the_whole(self) -> None:
        """Sums are float64 or whole numbers, and those of two parts add up to those of the whole, to 1e-9."""
        metric = self.build()
        sums = configs.of(MetricAnswers, metric).sums
        if sums is None:
            return
        own, _ = self._sets(metric)
        cut = len(next(iter(own.values()))) // 3
        parts = [sums({k: v[:cut] for k, v in own.items()}), sums({k: v[cut:] for k, v in own.items()})]
        for name, value in sums(own).items():
            kind = np.asarray(value).dtype
            assert kind == np.float64 or np.issubdtype(kind, np.integer), f"{name} is {kind}, not float64 or integer"
            added = np.asarray(parts[0][name]) + np.asarray(parts[1][name])
            assert added.shape == np.shape(value), f"{name} has the shapes {added.shape} and {np.shape(value)}"
            scale = max(float(np.abs(value).max(initial=0.0)), 1e-30)
            far = float(np.abs(added - value).max(initial=0.0)) / scale
            assert far <= 1e-9, f"{name} of two parts, added, is off by {far:.2g} of its largest entry"

    @Rule(Metric.values, "The rows of two sets, or their ``sums``, -> finite numbers", "compare it with the formula")
    def test_known_rows_have_their_number(self) -> None:
        """Rows with a number by a closed form have that number."""
        metric, known = self.build(), self.known()
        found = self.values(metric, known.own, known.against)
        assert known.values, "known() names no value"
        for name, value in known.values.items():
            assert math.isclose(found[name], value, rel_tol=known.rel, abs_tol=known.rel), (
                f"{name} is {found[name]!r}, and by the closed form {value!r}"
            )

    @Rule(
        Metric.values,
        "With fewer pictures than `least` on either side",
        "compare the number of rows with `least` first, and raise LDMError with both numbers",
    )
    def test_too_few_pictures_are_refused(self) -> None:
        """One picture fewer than `least`, on either side, or none at all, is an LDMError that names the number."""
        metric = self.build()
        least = configs.of(MetricAnswers, metric).least
        assert isinstance(least, int) and least >= 1, f"least is {least!r}, not a number of pictures"
        own, against = self._sets(metric)
        few = {name: value[: least - 1] for name, value in own.items()}
        calls: list[Callable[[], Any]] = [lambda: self.values(metric, few, against)]
        if against is not None:
            other = {name: value[: least - 1] for name, value in against.items()}
            calls.append(lambda: self.values(metric, own, other))
        for call in calls:
            error = must_raise(LDMError, call, f"values of {least - 1} pictures")
            assert str(least) in str(error), f"the error does not name {least}, the least number: {error}"

    @Rule(Metric, "rows that are not finite", "look for it with np.isfinite on what `values` is handed")
    def test_rows_that_are_not_finite_are_refused(self) -> None:
        """A NaN among the rows is an LDMError, and no number."""
        metric = self.build()
        own, against = self._sets(metric)
        real = [name for name, value in own.items() if np.issubdtype(value.dtype, np.floating)]
        for name in real:
            broken = {key: value.copy() for key, value in own.items()}
            broken[name][0] = np.nan
            must_raise(LDMError, partial(self.values, metric, broken, against), f"values of a NaN in {name}")

    # ------------------------------------------------------------------------------------------------- helpers

    def _sets(self, metric: Metric) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]] | None]:
        count = self.enough(metric)
        alone = configs.of(MetricConfig, self.config()).against == "nothing"
        return self.rows(0, count), None if alone else self.rows(count, count)

    @staticmethod
    def _summed(metric: Metric, rows: Rows) -> Rows:
        sums = configs.of(MetricAnswers, metric).sums
        return rows if sums is None else sums(rows)


def _turned(rows: Rows) -> dict[str, NDArray[Any]]:
    return {name: np.ascontiguousarray(value[::-1]) for name, value in rows.items()}
