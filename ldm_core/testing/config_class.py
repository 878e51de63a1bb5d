"""The config class of a component, as every plugin's must be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import attrs

from ldm_core.catalog.component import Component
from ldm_core.contracts import TrainableStage
from ldm_core.contracts.answers import ANSWERS, PartAnswers
from ldm_core.contracts.configs import CONFIGS, Config, misspelt
from ldm_core.recipe.places import is_place, undeclared
from ldm_core.testing.rules import Rule, must_raise

FROZEN = Rule(
    Component,
    "a frozen attrs class",
    "decorate the class with @attrs.frozen(kw_only=True), and let a converter leave alone what it has converted",
)
PLACE = Rule(
    is_place,
    "metadata ``place`` says so",
    'give the field metadata={"place": True}, so that no weights file fills it in, or {"place": False}',
)
NAMES = Rule(
    Component,
    "has the contract's name",
    "spell the name as the contract does; a name of its own that is like one by chance is declared in xfail",
)


def check_config_class(config: type) -> None:
    """Assert that `config` is a frozen attrs class with fields by keyword only, and that a field named like a place
    declares itself one or not."""
    with FROZEN.held():
        assert attrs.has(config), f"{config.__name__} is no attrs class"
        positional = [a.name for a in attrs.fields(config) if a.init and not a.kw_only]
        assert not positional, f"{config.__name__} takes {', '.join(positional)} by position"
        name = attrs.fields(config)[0].name if attrs.fields(config) else "anything"
        blank = object.__new__(config)
        must_raise(
            attrs.exceptions.FrozenInstanceError,
            lambda: setattr(blank, name, None),
            f"setting {name} of a {config.__name__}",
        )
    with PLACE.held():
        silent = undeclared(config)
        assert not silent, (
            f"{config.__name__} does not say whether {', '.join(silent)} names a path, a URL or another model"
        )


def misspelt_names(kind: str, config: type, part: object = None) -> Iterator[str]:
    """A line for each public name of a config class, or of a part or its class, that is almost an optional name."""
    answers: list[tuple[type, object]] = [(CONFIGS.get(kind, Config), config)]
    if part is not None:
        answers.append((ANSWERS.get(kind, PartAnswers), part))
        answers += [(TrainableStage, part)] if kind == "first_stage" else []
    for contract, thing in answers:
        owner = thing if isinstance(thing, type) else type(thing)
        for name, meant in misspelt(contract, thing):
            said = " ".join((inspect.getdoc(inspect.getattr_static(contract, meant)) or "").split())
            yield f"{owner.__name__}.{name} is read by nobody; {contract.__name__}.{meant}: {said}"
