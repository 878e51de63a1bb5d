"""Optional answers of configs and parts: how a default is declared, how one is read from any object, and the answers of
every config. Imports no torch.

This is the only file that looks optional names up by their text.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ldm_core.contracts.site import Site
from ldm_core.contracts.values import PRECISIONS, LatentSpec, Precision

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


class Config:
    """Answers that every kind of component may give."""

    __slots__ = ()

    def check(self, site: Site) -> Iterable[str]:
        """Yield a line for each thing that does not fit at `site`: both numbers, and the fix."""
        return ()

    @answer
    def fixed_size(self) -> bool:
        """True if the part is built for one image size, so that ``data.buckets`` is refused."""
        return False

    def taken_sizes(self, size: tuple[int, int], latent: LatentSpec) -> Mapping[str, tuple[int, int]]:
        """Return, by batch key, the size (h, w) at which a conditioner or a guidance takes an input as it is, if it is
        not the images'."""
        return {}

    @answer
    def precisions(self) -> tuple[Precision, ...]:
        """The arithmetic in which the networks of the part may run, of ``fp32``, ``bf16`` and ``fp16``.

        () = any; of a first stage that is not being trained, fp32 and bf16. Where a run asks for another one, a
        conditioner and a first stage run in fp32, which is among theirs; a denoiser and an adapter are refused.
        """
        return ()

    @answer
    def provides(self) -> tuple[str, ...]:
        """The names of traits that the part gives to a model, for others' `requires`: ``consistency``, say."""
        return ()

    @answer
    def requires(self) -> Mapping[str, str]:
        """The traits without which the part makes no good picture, each with the remedy in words. Where no part of the
        recipe provides one, the recipe is refused, and nobody is offered the part."""
        return {}


class TimesConfig(Config):
    """The config of a part that gives times: a schedule or a time grid."""

    __slots__ = ()

    @answer
    def by_size(self) -> bool:
        """True if its times depend on the latents' size: the part takes the keyword `shape`, and keeps its config as
        `config`, by which callers know."""
        return False


class DatasetConfig(Config):
    """The config of a data set."""

    __slots__ = ()

    @answer
    def url(self) -> str:
        """The place of the data; "" if it is made on the spot."""
        return ""

    @answer
    def split(self) -> str | None:
        """The split that is read; None if the data set has no splits."""
        return None

    @answer
    def recognises(self) -> Callable[[Sequence[str]], bool] | None:
        """``recognises(names)`` is True of the names of the files in a folder if the data set reads these; then it
        is taken for a folder of these alone, of neither pictures nor tars. A static method."""
        return None


class DegradationConfig(Config):
    """The config of a degradation; `makes` is required."""

    __slots__ = ()

    @answer
    def makes(self) -> Literal["image", "mask"]:
        """``image``: another picture, as a small version; ``mask``: the holes of the picture."""
        raise AttributeError("a degradation's config needs `makes`: 'image' or 'mask'")


class RuntimeConfig(Config):
    """The config of a runtime."""

    __slots__ = ()

    @answer
    def keeps_hooks(self) -> bool:
        """True if hooks and changed weights inside of the networks act as before, so that it takes adapters."""
        return False


def allowed_precisions(kind: str, config: object) -> tuple[Precision, ...]:
    """The arithmetic in which a part of this `kind` and `config` may run; of a first stage, one that is trained
    already: published autoencoders leave the range of fp16."""
    return of(Config, config).precisions or (("fp32", "bf16") if kind == "first_stage" else PRECISIONS)


def precision_among(allowed: Sequence[Precision], asked: Precision) -> Precision:
    """The precision that is `asked` for where it is `allowed`, else fp32, else the first allowed one."""
    return asked if asked in allowed else "fp32" if "fp32" in allowed else allowed[0]
