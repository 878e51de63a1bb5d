"""Parts that are registered in Python, without a distribution: a class of a notebook as a component."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

import attrs

from ldm_core import contracts
from ldm_core.catalog.component import Component, NoConfig
from ldm_core.errors import ComponentError

HERE = "this process"
"""Stands for the distribution of a part that is registered in Python."""
NOT_HERE = "; install its distribution (pip install -e FOLDER), or if it was registered in Python register it here too"
CONTRACTS: Mapping[str, str] = {
    "first_stage": "FirstStage",
    "denoiser": "Denoiser",
    "conditioner": "Conditioner",
    "schedule": "NoiseSchedule",
    "parameterization": "Parameterization",
    "objective": "Objective",
    "time_grid": "TimeGrid",
    "sampler": "Sampler",
    "guidance": "Guidance",
    "adapter": "Adapter",
    "degradation": "Degradation",
    "metric": "Metric",
    "annotation": "AnnotationFormat",
}


def is_part(given: Any) -> bool:
    """Tell a component, or a class that subclasses a contract, from a plugin with hooks."""
    return isinstance(given, Component) or (isinstance(given, type) and bool(_kinds(given)))


def component_of(part: Any, name: str) -> Component:
    """The component that `part` is, or the description of a class: its kind by its contract, its config by the
    annotation of its constructor's first parameter. :class:`ComponentError` with what is missing."""
    if isinstance(part, Component):
        return attrs.evolve(part, name=name) if name else part
    kinds, config = _kinds(part), _config_of(part)
    if len(kinds) > 1 or config is None:
        lacking = f"is {' and '.join(kinds)}" if len(kinds) > 1 else "its constructor names no attrs class of options"
        raise ComponentError(
            f"class {part.__name__}: {lacking}; write `def __init__(self, config: YourConfig, site: Site)` with a "
            "frozen attrs class, or register a Component(kind=..., name=..., config=..., factory=..., summary=...)"
        )
    called = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part.__name__).lower()
    summary = (inspect.getdoc(part) or called).splitlines()[0]
    return Component(kind=kinds[0], name=called, config=config, factory=part, summary=summary)


def _kinds(part: type) -> list[str]:
    return [kind for kind, contract in CONTRACTS.items() if getattr(contracts, contract) in part.__mro__[1:]]


def _config_of(part: Any) -> type | None:
    names = [name for name in inspect.signature(part.__init__).parameters if name != "self"]
    try:
        hint = get_type_hints(part.__init__).get(names[0]) if names else None
    except (NameError, TypeError):
        hint = None
    return hint if isinstance(hint, type) and attrs.has(hint) and hint is not NoConfig else None
