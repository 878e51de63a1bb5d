"""The suite of metrics: a right one passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import pytest
import torch
from planted import Mistake, assert_found, faults_of, mistakes

from ldm_core.contracts import Metric, MetricConfig, Pictures, Rows, Site
from ldm_core.errors import DataError
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known


@attrs.frozen(kw_only=True)
class SetConfig(MetricConfig):
    against: ClassVar[Literal["set"]] = "set"


@attrs.frozen(kw_only=True)
class HigherConfig(SetConfig):
    higher_is_better: ClassVar[tuple[str, ...]] = ("sharpness",)


class Means(Metric):
    """The squared distance of the means of two sets' mean colours."""

    source = "mean colour"
    least = 2

    def __init__(self, config: object, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, Any]:
        return {"colour": pictures.images.double().mean(dim=(2, 3)).cpu().numpy()}

    def sums(self, rows: Rows) -> dict[str, Any]:
        return {"count": np.array(len(rows["colour"])), "sum": rows["colour"].sum(0, dtype=np.float64)}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        assert against is not None
        self.require(own, against)
        return {"means": float(np.square(own["sum"] / own["count"] - against["sum"] / against["count"]).sum())}

    def require(self, *sets: Rows) -> None:
        for each in sets:
            if int(each["count"]) < self.least:
                raise DataError(f"means needs {self.least} pictures, and here are {each['count']}; give more")
            if not np.isfinite(each["sum"]).all():
                raise DataError("means: a colour is not finite")


class Suite(MetricSuite):
    def known(self) -> Known:
        own, against = {"colour": np.array([[1.0, 2, 3]] * 2)}, {"colour": np.array([[1.0, 0, 1], [1, 2, 1]])}
        return Known(own, against, {"means": 5.0})


class OfTheBatch(Means):
    def measure(self, pictures: Pictures) -> dict[str, Any]:
        colour = super().measure(pictures)["colour"]
        return {"colour": colour - colour.mean(0)}


class Tensors(Means):
    def measure(self, pictures: Pictures) -> dict[str, Any]:
        return {"colour": pictures.images.double().mean(dim=(2, 3))}


class Summed(Means):
    def measure(self, pictures: Pictures) -> dict[str, Any]:
        return {"colour": super().measure(pictures)["colour"].sum(0)}


class Averages(Means):
    def sums(self, rows: Rows) -> dict[str, Any]:
        return {"count": np.array(len(rows["colour"])), "sum": rows["colour"].mean(0) * 7}


class Single(Means):
    def sums(self, rows: Rows) -> dict[str, Any]:
        return {"count": np.array(len(rows["colour"])), "sum": rows["colour"].astype(np.float32).sum(0)}


class Locked(Means):
    def __init__(self, config: object, site: Site) -> None:
        super().__init__(config, site)
        self.lock = threading.Lock()


class TwoLines(Means):
    source = "mean\ncolour"


class Restless(Means):
    built = 0

    def __init__(self, config: object, site: Site) -> None:
        super().__init__(config, site)
        Restless.built += 1
        self.source = f"build {Restless.built}"


class FreshWeights(Means):
    """Its network is drawn anew and its source does not say so."""

    def __init__(self, config: object, site: Site) -> None:
        super().__init__(config, site)
        self.weight = torch.randn(3).double().numpy()

    def measure(self, pictures: Pictures) -> dict[str, Any]:
        return {"colour": super().measure(pictures)["colour"] * self.weight}


class Infinite(Means):
    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        return {**super().values(own, against), "inverse": float("inf")}


class Drawn(Means):
    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        return {"means": super().values(own, against)["means"] + float(np.random.rand())}


class Rowwise(Means):
    """Takes rows, in the order in which they come."""

    sums: ClassVar[Any] = None

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        assert against is not None
        self.require(*({"count": np.array(len(r["colour"])), "sum": r["colour"]} for r in (own, against)))
        return {"means": float(np.square(own["colour"] - against["colour"].mean(0))[0].sum())}


class Edits(Rowwise):
    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        found = super().values(own, against)
        own["colour"][:] = 0
        return {"means": found["means"] * 0}


class Wrong(Means):
    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        return {"means": 2 * super().values(own, against)["means"]}


class Careless(Means):
    def require(self, *sets: Rows) -> None:
        """Nothing is too little."""


class Curt(Means):
    def require(self, *sets: Rows) -> None:
        if any(int(each["count"]) < self.least or not np.isfinite(each["sum"]).all() for each in sets):
            raise DataError("means: too few pictures, or colours that are not finite")


def test_a_right_one_passes() -> None:
    assert not faults_of(Suite, Means, SetConfig)


@mistakes(
    Mistake(OfTheBatch, "test_an_example_does_not_depend_on_its_batch", "alone and in a batch"),
    Mistake(Tensors, "test_outputs_are_finite", "colour are no numpy arrays"),
    Mistake(Summed, "test_outputs_are_finite", "for a batch of 2"),
    Mistake(Averages, "test_sums_of_parts_are_the_sums_of_the_whole", "of two parts, added"),
    Mistake(Single, "test_sums_of_parts_are_the_sums_of_the_whole", "sum is float32"),
    Mistake(Locked, "test_is_picklable", "lock"),
    Mistake(TwoLines, "test_the_source_is_one_line", "not one line"),
    Mistake(Restless, "test_the_source_is_one_line", "built twice, the source is"),
    Mistake(FreshWeights, "test_the_source_is_one_line", "their weights differ"),
    Mistake(Infinite, "test_values_are_finite_numbers", "inverse is inf"),
    Mistake(Means, "test_values_are_finite_numbers", "higher_is_better names sharpness", HigherConfig),
    Mistake(Drawn, "test_values_repeat_themselves", "two equal calls"),
    Mistake(Edits, "test_values_repeat_themselves", "changes the rows"),
    Mistake(Rowwise, "test_the_order_does_not_matter", "means: "),
    Mistake(Wrong, "test_known_rows_have_their_number", ("means is 10", "closed form 5")),
    Mistake(Careless, "test_too_few_pictures_are_refused", "values of 1 pictures"),
    Mistake(Curt, "test_too_few_pictures_are_refused", "does not name 2"),
    Mistake(Careless, "test_rows_that_are_not_finite_are_refused", "a NaN in colour"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(Suite, mistake, SetConfig)


@attrs.frozen(kw_only=True)
class PairConfig(MetricConfig):
    subject: ClassVar[Literal["reconstructions"]] = "reconstructions"


class Errors(Means):
    sums: ClassVar[Any] = None

    def measure(self, pictures: Pictures) -> dict[str, Any]:
        assert pictures.originals is not None
        error = (pictures.images.double() - pictures.originals.double()).square().mean(dim=(1, 2, 3))
        return {"error": error.cpu().numpy()}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        assert against is None
        self.require({"count": np.array(len(own["error"])), "sum": own["error"]})
        return {"mse": float(own["error"].mean())}


class Pairs(MetricSuite):
    def known(self) -> Known:
        return Known({"error": np.array([1.0, 3.0])}, None, {"mse": 2.0})


def test_a_metric_of_reconstructions_is_shown_their_originals() -> None:
    assert not faults_of(Pairs, Errors, PairConfig)


def test_metrics_share_what_they_make_of_a_batch() -> None:
    numbers = iter(range(9))
    shown = Pictures(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    found = [shown.again(key, lambda: next(numbers)) for key in ("features", "features", "others", "features")]
    assert found == [0, 0, 1, 0]


@pytest.mark.parametrize("missing", ["measure", "values", "source"])
def test_a_forgotten_name_is_told(missing: str) -> None:
    namespace = {k: v for k, v in vars(Means).items() if k != missing}
    half = type("Half", (Metric,), {k: v for k, v in namespace.items() if k not in ("__dict__", "__weakref__")})
    found = faults_of(Suite, half, SetConfig)
    assert any(missing in text for text in found.values()), found
