"""Optional answers of configs and parts: how a default is declared, and how one is read from any object.

This is the only file that looks optional names up by their text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    # a property in a type checker's eyes, which any form of attribute may override
    from types import DynamicClassAttribute

    answer = DynamicClassAttribute
else:

    class answer:
        """A default that a subclass overrides by a constant, a field, a property or a method.

        It answers at the class as at an instance. Unlike a property it yields to an instance's own attribute, so that
        ``self.name = ...`` works in a module and in an attrs class without slots.
        """

        def __init__(self, default: Any) -> None:
            self._default = default
            self.__doc__ = default.__doc__

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            return self._default(instance)


def of(kind: type[T], thing: object) -> T:
    """Read `thing`, a config, a part or a class of one, as `kind`: names that it lacks have the kind's defaults."""
    if isinstance(thing, kind) or (isinstance(thing, type) and issubclass(thing, kind)):
        return thing  # type: ignore[return-value]
    return _view(kind)(thing)  # type: ignore[no-any-return, arg-type]


@cache
def _view(kind: type) -> Any:
    class View(kind):
        __slots__ = ("_thing",)

        def __init__(self, thing: object) -> None:
            object.__setattr__(self, "_thing", thing)

        def __getattribute__(self, name: str) -> Any:
            thing = object.__getattribute__(self, "_thing")
            # A property that fails by itself is no missing one: let its error out.
            if hasattr(type(thing), name) or hasattr(thing, name):
                return getattr(thing, name)
            return object.__getattribute__(self, name)

    return View


def misspelt(kind: type, thing: object) -> Iterator[tuple[str, str]]:
    """Yield (name, meant) for each public name of `thing`, a class or an object, that nearly is one of `kind` and is
    none."""
    known = [name for name in dir(kind) if not name.startswith("_")]
    cls = thing if isinstance(thing, type) else type(thing)
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in ("builtins", "torch", "typing")]
    own = {name for base in bases if base not in kind.__mro__ for name in vars(base)}
    if thing is not cls:
        own.update(getattr(thing, "__dict__", ()))
    own = {name for name in own if not name.startswith("_")}
    for name in sorted(own.difference(known)):
        near = difflib.get_close_matches(name, [meant for meant in known if meant not in own], 1, 0.8)
        if near:
            yield name, near[0]
