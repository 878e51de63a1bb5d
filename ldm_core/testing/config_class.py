"""The config class of a component, as every plugin's must be."""

from __future__ import annotations

import attrs
import pytest

from ldm_core.recipe.places import undeclared


def check_config_class(config: type) -> None:
    """Assert that a config class is a frozen attrs class whose fields are given by keyword only, and that it says of
    each field which is called like a place whether it names one."""
    assert attrs.has(config), f"{config.__name__} is no attrs class"
    positional = [a.name for a in attrs.fields(config) if a.init and not a.kw_only]
    assert not positional, f"{config.__name__} takes {', '.join(positional)} by position; use kw_only=True"
    silent = undeclared(config)
    assert not silent, (
        f"{config.__name__} does not say whether {', '.join(silent)} names a path, a URL or another model; add "
        '"place": True to the field\'s metadata (a weights file then never fills it in), or False where it does not'
    )
    blank = object.__new__(config)
    name = attrs.fields(config)[0].name if attrs.fields(config) else "anything"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(blank, name, None)
