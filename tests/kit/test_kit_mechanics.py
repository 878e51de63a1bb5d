"""The conformance kit's mechanics: standard tests stay as they are, expected failures, and where tensors are made."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Command, forked
from planted import Empty
from torch import nn
from torch.nn import functional as F

from ldm_core.testing import ParameterizationSuite, Suite, TimeGridSuite
from ldm_core.testing.devices import PickedDevice, elsewhere, require_placed
from ldm_core.testing.running import catalog_of, failures
from ldm_core.testing.toys import FlowParameterization


def flow(config: Any, site: Any) -> FlowParameterization:
    return FlowParameterization()


CATALOG = catalog_of("parameterization", "flow", Empty, flow)


def test_a_standard_test_cannot_be_overridden() -> None:
    with pytest.raises(TypeError) as caught:

        class Mine(TimeGridSuite):
            component = "legacy"

            def test_times(self, name: str) -> None:
                pass

    for word in ("Mine", "test_times", 'xfail = {"test_times": "reason"}'):
        assert word in str(caught.value)


def test_it_cannot_be_switched_off_either() -> None:
    with pytest.raises(TypeError, match="test_builds_by_name"):
        type("Mine", (TimeGridSuite,), {"test_builds_by_name": None})


def test_a_mixin_does_not_get_around_it() -> None:
    class Quiet:
        def test_repeats_itself(self) -> None:
            pass

    with pytest.raises(TypeError, match="test_repeats_itself"):
        type("Mine", (Quiet, TimeGridSuite), {})


def test_a_test_of_ones_own_may_be_added() -> None:
    class Mine(TimeGridSuite):
        def test_something_special(self) -> None:
            pass

    assert "test_something_special" in dir(Mine)


@pytest.mark.parametrize("reason", ["", "   ", None])
def test_xfail_needs_a_reason(reason: Any) -> None:
    with pytest.raises(TypeError, match="reason"):
        type("Mine", (TimeGridSuite,), {"xfail": {"test_times": reason}})


def test_xfail_names_must_exist() -> None:
    with pytest.raises(TypeError, match="test_tiems"):
        type("Mine", (TimeGridSuite,), {"xfail": {"test_tiems": "a typing error"}})


def test_xfail_marks_the_copy_and_not_the_suite() -> None:
    class Mine(TimeGridSuite):
        xfail = {"test_times": "needs another table"}  # noqa: RUF012

    class Younger(Mine):
        component = "other"

    for cls in (Mine, Younger):
        marks = [m for m in cls.test_times.pytestmark if m.name == "xfail"]  # type: ignore[attr-defined]
        assert marks and all(m.kwargs == {"reason": "needs another table", "strict": True} for m in marks)
        assert [m.name for m in cls.test_times.pytestmark].count("parametrize") == 1  # type: ignore[attr-defined]
    assert all(m.name != "xfail" for m in TimeGridSuite.test_times.pytestmark)  # type: ignore[attr-defined]


def test_a_known_failure_is_expected_and_a_mended_one_reported(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import attrs
            from ldm_core.testing import ParameterizationSuite
            from ldm_core.testing.running import catalog_of
            from ldm_core.testing.toys import FlowParameterization

            @attrs.frozen(kw_only=True)
            class Empty:
                pass

            class Wrong(FlowParameterization):
                def coefficients(self, alpha, sigma):
                    a, b, c = super().coefficients(alpha, sigma)
                    return a, 2 * b, c

            class TestWrong(ParameterizationSuite):
                component = "flow"
                catalog = catalog_of("parameterization", "flow", Empty, lambda config, site: Wrong())
                xfail = {"test_exact_output_gives_x0_back": "off by a factor"}

            class TestMended(ParameterizationSuite):
                component = "flow"
                catalog = catalog_of("parameterization", "flow", Empty, lambda config, site: FlowParameterization())
                xfail = {"test_repeats_itself": "was so once"}
            """
        )
    )
    options = ("-rfx", "-c", "/dev/null", "--rootdir", str(tmp_path))
    line = ["pytest", "-q", "-p", "no:cacheprovider", *options, str(tmp_path / "test_it.py")]
    (done,) = forked([Command(line, Path(__file__).parents[2])], imports=["pytest", "ldm_core.testing"])
    assert "4 xfailed" in done.out, done.out + done.err  # on each of the four schedules
    assert "1 failed" in done.out and "[XPASS(strict)] was so once" in done.out, done.out


def test_suites_are_not_collected_by_themselves() -> None:
    import ldm_core.testing as kit

    for name in set(kit.__all__) - {"Known"}:  # a known value, for the suite of metrics
        assert not name.startswith("Test"), name
        assert issubclass(getattr(kit, name), Suite)
        assert name.endswith("Suite")


def test_an_unknown_name_says_so() -> None:
    class Mine(ParameterizationSuite):
        component = "flwo"
        catalog = CATALOG

    assert "did you mean 'flow'" in failures(Mine)["test_builds_by_name"]


def test_a_missing_attribute_says_so() -> None:
    class Mine(ParameterizationSuite):
        catalog = CATALOG

    assert "set the attribute component" in failures(Mine)["test_builds_by_name"]


# ---------------------------------------------------------------------------------------------------- devices

X = torch.randn(2, 4)
WEIGHT = nn.Parameter(torch.randn(4, 4))
RIGHT = {
    "of the input": lambda: torch.zeros(2, 4, device=X.device) + X,
    "moved there": lambda: torch.tensor([[1.0, 2.0, 3.0, 4.0]]).to(X.device) + X,
    "moved to its like": lambda: torch.arange(4).to(X) + X,
    "of its type": lambda: torch.arange(4).type_as(X) + X,
    "new": lambda: X.new_zeros(2, 4),
    "alike": lambda: torch.zeros_like(X),
    "a number": lambda: X * torch.tensor(3.0),
    "a number of Python": lambda: X * float(torch.linspace(0, 1, 3).sum()),
    "an index": lambda: X[torch.tensor([0, 1])],
    "of a parameter": lambda: F.embedding(torch.tensor([1, 2], device=WEIGHT.device), WEIGHT),
    "through numpy": lambda: torch.tensor(X.cpu().numpy(), device=X.device),
    "a copy into it": lambda: torch.empty_like(X).copy_(torch.zeros(2, 4)),
    "stacked and moved": lambda: torch.stack([torch.tensor(1.0), torch.tensor(2.0)]).to(X.device),
}
WRONG = {
    "made by itself": lambda: torch.zeros(2, 4),
    "random": lambda: torch.rand(2, 4) + X,
    "an index of an embedding": lambda: F.embedding(torch.tensor([1, 2]), WEIGHT),
    "a choice": lambda: torch.where(torch.arange(4) > 1, X, X),
    "put together": lambda: torch.cat([X, torch.zeros(1, 4)]),
    "by numpy": lambda: torch.from_numpy(np.zeros((2, 4), np.float32)) + X,
    "a mask of attention": lambda: F.scaled_dot_product_attention(
        X[None], X[None], X[None], attn_mask=torch.ones(2, 2, dtype=torch.bool)
    ),
    "a named device": lambda: torch.zeros(2, 4, device="cpu") + X,
    "a GPU": lambda: torch.zeros(2, 4, device="cuda"),
    "moved to a GPU": lambda: X.cuda(),
    "moved to a named one": lambda: X.to("cuda:0"),
    "taken where there is one": lambda: X.to("cuda" if torch.cuda.is_available() else "cpu"),
}


@pytest.mark.parametrize("case", [*RIGHT, *WRONG])
def test_where_tensors_are_made(case: str) -> None:
    before = torch.cuda.is_available

    def run() -> None:
        with elsewhere():
            out = {**RIGHT, **WRONG}[case]()
        require_placed({"out": out})

    if case in RIGHT:
        run()
    else:
        with pytest.raises(PickedDevice, match=r"by itself|default device"):
            run()
    assert torch.cuda.is_available is before
