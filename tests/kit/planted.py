"""Mistakes planted in right parts: the suite of the kind finds each, and says the contract's own line and the fix."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest

from ldm_core import contracts
from ldm_core.catalog import hookspecs
from ldm_core.catalog.component import Component
from ldm_core.contracts import codec
from ldm_core.recipe import places
from ldm_core.testing import Suite
from ldm_core.testing.running import catalog_of, failures

_TOLD = re.compile(r'  contract \((?P<name>[\w.]+)\): "(?P<line>.+)"\n  fix: (?P<fix>.+)')
_BESIDE = {"Component": Component, "ldm_components": hookspecs.ldm_components, "is_place": places.is_place}


@attrs.frozen(kw_only=True)
class Empty:
    """A config without fields."""


def _all(words: str | tuple[str, ...]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words


@attrs.frozen
class Mistake:
    """A wrong part, the standard test that finds it, and words of what that says; `config` where it is the config."""

    make: Callable[..., Any]
    test: str
    words: tuple[str, ...] = attrs.field(converter=_all)
    config: type | None = None

    def __str__(self) -> str:
        name = getattr(self.config or self.make, "__name__", "mistake")
        return f"{name}-{self.test.removeprefix('test_')}"


def mistakes(*planted: Mistake) -> pytest.MarkDecorator:
    """The parameter `mistake` of a test, each under the name of its class."""
    return pytest.mark.parametrize("mistake", planted, ids=str)


def faults_of(
    suite: type[Suite], make: Callable[..., Any], config: type = Empty, *, only: str = "", **attributes: Any
) -> dict[str, str]:
    """The standard tests of `suite` that a part fails, or of them `only` one, by name with what they say."""
    name = attributes.pop("component", "toy")
    if "catalog" not in attributes:
        attributes["catalog"] = catalog_of(suite.kind, name, config, make)
    return failures(type("Mine", (suite,), {"component": name, **attributes}), only)


def assert_found(suite: type[Suite], mistake: Mistake, config: type = Empty, **attributes: Any) -> None:
    """The mistake fails its test, whose message has the words, the contract's line and a fix."""
    found = faults_of(suite, mistake.make, mistake.config or config, only=mistake.test, **attributes)
    assert mistake.test in found, f"{mistake} is not found"
    assert_told(found[mistake.test], *mistake.words)


def assert_told(message: str, *words: str) -> None:
    """`message` has the words, and quotes a line that the contract has today, followed by a fix."""
    for word in words:
        assert word in message, message
    told = _TOLD.search(message)
    assert told, f"no line of a contract, or no fix:\n{message}"
    said = " ".join((inspect.getdoc(_contract(told["name"])) or "").split())
    assert told["line"] in said, f"{told['name']} does not say: {told['line']}"
    assert len(told["fix"].split()) >= 3, f"this fix helps nobody: {told['fix']}"


def _contract(name: str) -> Any:
    if name == "ldm_core.contracts":
        return contracts
    first, _, rest = name.partition(".")
    known: Mapping[str, Any] = {**vars(codec), **{n: getattr(contracts, n) for n in dir(contracts)}, **_BESIDE}
    return getattr(known[first], rest) if rest else known[first]
