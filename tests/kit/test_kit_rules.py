"""The rules of the kit: each standard test has one, which quotes a line that its contract has today, and a fix."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import ldm_core.testing as kit
from ldm_core.contracts import Denoiser
from ldm_core.testing import config_class
from ldm_core.testing.rules import Rule, message, must_raise
from ldm_core.testing.suites import sampler


def _tests() -> Iterator[tuple[str, Any]]:
    for suite in kit.__all__:
        for name, test in inspect.getmembers(getattr(kit, suite), inspect.isfunction):
            if name.startswith("test_"):
                yield f"{suite}.{name}", test


TESTS = dict(_tests())
BESIDE = [r for module in (config_class, sampler) for r in vars(module).values() if isinstance(r, Rule)]


def test_every_standard_test_has_a_rule() -> None:
    assert len(TESTS) > 150
    assert not [name for name, test in TESTS.items() if not isinstance(getattr(test, "rule", None), Rule)]


@pytest.mark.parametrize(
    "rule", dict.fromkeys([*(test.rule for test in TESTS.values()), *BESIDE]), ids=lambda rule: rule.phrase[:40]
)
def test_a_rule_quotes_its_contract(rule: Rule) -> None:
    line = rule.line
    assert rule.phrase in line and len(line) <= 400, line
    said = " ".join((inspect.getdoc(rule.contract) or "").split())
    assert line in said, f"{rule.name} does not say: {line}"
    assert len(rule.fix.split()) >= 3 and rule.fix[-1] != ".", rule.fix


def test_a_line_that_is_gone_is_told() -> None:
    with pytest.raises(LookupError, match=r"Denoiser\.forward has no sentence with 'a phrase of nobody'"):
        _ = Rule(Denoiser.forward, "a phrase of nobody", "say it").line


def test_an_error_is_told_the_innermost_rule_alone() -> None:
    inner = Rule(Denoiser.forward, "the first C channels are F", "give F first")

    @Rule(Denoiser, "F of the prepared bundle", "leave the bundle as it is")
    def tried() -> None:
        with inner.held():
            raise ValueError("narrow")

    with pytest.raises(ValueError, match="narrow") as caught:
        tried()
    text = message(caught.value)
    assert text.startswith("ValueError: narrow\n  contract (Denoiser.forward): ")
    assert text.endswith("\n  fix: give F first") and text.count("contract (") == 1


def test_a_refusal_that_does_not_come_is_told() -> None:
    error = must_raise(ValueError, lambda: int("x"), "a letter")
    assert isinstance(error, ValueError)
    with pytest.raises(AssertionError, match=r"a digit raises nothing \(it gives int\), and must raise ValueError"):
        must_raise(ValueError, lambda: int("1"), "a digit")
    with pytest.raises(AssertionError, match=r"a list raises TypeError \(.*\), not ValueError"):
        must_raise(ValueError, lambda: int([]), "a list")  # type: ignore[call-overload]


def test_a_rule_keeps_what_pytest_needs() -> None:
    test = kit.TimeGridSuite.test_times
    assert list(inspect.signature(test).parameters) == ["self", "name"]
    assert test.__doc__ and test.__name__ == "test_times"
