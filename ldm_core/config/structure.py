"""Plain values (YAML, command-line overrides) to frozen attrs classes, strictly, with errors that name their place.

Nothing is coerced: ``"false"`` is no boolean and 3.9 no integer. Unknown keys are errors. All mistakes of a document
are reported at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from ldm_core.config.documents import not_unicode
from ldm_core.config.documents import parse_yaml as parse_yaml
from ldm_core.config.fields import inner_configs, spelled
from ldm_core.config.key_hints import key_hint
from ldm_core.errors import ConfigError, clean, quoted, suggest

T = TypeVar("T")
_NOTHING = object()


_LARGEST = 10**300


class _Mismatch(ValueError):
    """A value of the wrong type; the message is complete but for its path."""


def _show(value: Any) -> str:
    return quoted(value, 60)


def _integer(value: Any, _: Any) -> int:
    if isinstance(value, float) and value.is_integer() and 100 <= abs(value) < 2**53:
        return int(value)  # 1e5, as people write a number of steps; 4.0 is no count
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Mismatch(f"expected an integer, got {_show(value)}")
    return value


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Mismatch(f"expected a number, got {_show(value)}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise _Mismatch(f"expected a number, got {_show(value)}, which is too large")
    if not math.isfinite(value):
        raise _Mismatch(f"expected a finite number, got {_show(value)}")
    return float(value)


def _bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise _Mismatch(f"expected true or false, got {_show(value)}")
    return value


def _string(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise _Mismatch(f"expected text, got {_show(value)} (put it in quotes)")
    if not value.isprintable() and (problem := not_unicode(value)):
        raise _Mismatch(problem)
    return value


def _literal(value: Any, target: Any) -> Any:
    allowed = get_args(target)
    for choice in allowed:
        if value == choice and type(value) is type(choice):
            return choice
    raise _Mismatch(
        f"expected one of {', '.join(map(str, allowed))}, got {_show(value)}{suggest(str(value), map(str, allowed))}"
    )


def _union(value: Any, target: Any) -> Any:
    if value is None and NoneType in get_args(target):
        return None
    members = [m for m in get_args(target) if m is not NoneType]
    if isinstance(value, str) and str in members:  # and no name of a config
        return _string(value, str)
    errors = []
    for member in members:
        try:
            return _CONVERTER.structure(value, member)
        except _Mismatch as error:
            errors.append(str(error))
        except (ClassValidationError, IterableValidationError):
            if len(members) == 1:
                raise
            errors.append(f"got {_show(value)}")
    raise _Mismatch(" or ".join(dict.fromkeys(errors)))


def _tuple(value: Any, target: Any) -> tuple[Any, ...]:
    """``tuple[T, ...]`` takes a list of any length, ``tuple[S, T]`` one of its own."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        row = isinstance(value, str) and "," in value and value[:1] != "["
        hint = f"; lists stand in brackets: '[{clean(value, 80)}]'" if row else ""
        raise _Mismatch(f"expected a list, got {_show(value)}{hint}")
    kinds = get_args(target)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise _Mismatch(f"expected {len(kinds)} values, got {_show(value)}")
    out, errors = [], []
    for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            out.append(_CONVERTER.structure(item, kind))
        except Exception as error:
            error.add_note(IterableValidationNote("", i, kind))
            errors.append(error)
    if errors:
        raise IterableValidationError("list", errors, target)
    return tuple(out)


def _mapping(value: Any, target: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _Mismatch(f"expected a mapping, got {_show(value)}")
    key, item = get_args(target) or (Any, Any)
    structure = _CONVERTER.structure
    return MappingProxyType({structure(k, key): v if item is Any else structure(v, item) for k, v in value.items()})


def _class_hook(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Make the hook of one attrs class; its code is generated once."""
    read = make_dict_structure_fn(target, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)

    def structure(value: Any, _: Any) -> Any:
        value = spelled(target, value)
        if not isinstance(value, Mapping):
            raise _Mismatch(f"expected a mapping of settings, got {_show(value)}")
        return read(value, target)

    return structure


_Hook: TypeAlias = Callable[[Any, Any], Any]
_SCALARS: Mapping[Any, _Hook] = {int: _integer, float: _float, bool: _bool, str: _string}
_BY_ORIGIN: Mapping[Any, _Hook] = {
    Literal: _literal,
    Union: _union,
    UnionType: _union,
    tuple: _tuple,
    Mapping: _mapping,
    dict: _mapping,
}
"""The origin of a generic type -> its hook ``(value, type) -> structured value``."""


def _has_origin(origin: Any, target: Any) -> bool:
    return get_origin(target) is origin


def make_converter() -> Converter:
    """Make a converter with forbidden extra keys and strict scalars."""
    made = Converter(forbid_extra_keys=True, detailed_validation=True)
    for scalar, hook in _SCALARS.items():
        made.register_structure_hook(scalar, hook)
    for origin, hook in _BY_ORIGIN.items():
        made.register_structure_hook_func(partial(_has_origin, origin), hook)
    made.register_structure_hook_func(lambda target: target is Mapping, _mapping)
    made.register_structure_hook_factory(attrs.has, _class_hook)
    return made


_CONVERTER = make_converter()


def structure(value: Any, target: type[T], path: str = "") -> T:
    """Plain `value` -> an instance of `target`; :class:`ConfigError` with one line per mistake, each with its path."""
    try:
        return _CONVERTER.structure(value, target)
    except Exception as error:
        raise ConfigError(list(_explain(error, path))) from None


def _explain(error: BaseException, path: str) -> Iterable[str]:
    if isinstance(error, ClassValidationError):
        for sub in error.exceptions:
            note = next((n for n in getattr(sub, "__notes__", []) if isinstance(n, AttributeValidationNote)), None)
            here = f"{path}.{note.name}".lstrip(".") if note else path
            if isinstance(sub, ForbiddenExtraKeysError):
                known = [a.name for a in attrs.fields(sub.cl)] if attrs.has(sub.cl) else []
                for key in sorted(sub.extra_fields, key=str):
                    hint = key_hint(path, str(key), known) or f" (known: {', '.join(known) or 'none'})"
                    yield f"{path}.{clean(key, 60)}".lstrip(".") + f": unknown key{hint}"
            elif note is None and isinstance(sub, ValueError) and attrs.has(error.cl):
                yield _of_validator(sub, error.cl, path)
            else:
                yield from _explain(sub, here)
    elif isinstance(error, IterableValidationError):
        for sub in error.exceptions:
            item = next((n for n in getattr(sub, "__notes__", []) if isinstance(n, IterableValidationNote)), None)
            yield from _explain(sub, f"{path}[{item.index}]" if item is not None else path)
    elif isinstance(error, KeyError):
        yield (
            f"{path or 'recipe'}: '{clean(error.args[0], 60)}' is missing"
            if not path.endswith(str(error.args[0]))
            else f"{path}: missing"
        )
    else:
        yield f"{path or 'recipe'}: {clean(error, 600)}"


def _of_validator(error: ValueError, target: type, path: str) -> str:
    """The message of a class's own validators, under the path of the field at its start."""
    text = str(error.args[0] if error.args else error)  # attrs' validators put the attribute itself behind it
    named = re.match(r"'?(\w+)'?(: |\.| (?=must be ))", text)
    if named is None or named[1] not in {a.name for a in attrs.fields(target)}:
        return f"{path or 'recipe'}: {text}"
    joint = "." if named[2] == "." else ": "
    return f"{path}.{named[1]}".lstrip(".") + joint + text[named.end() :]


def unstructure(value: Any) -> Any:
    """An attrs instance -> plain values for YAML and JSON, readable by :func:`structure`."""
    if attrs.has(type(value)):
        return {a.name: unstructure(getattr(value, a.name)) for a in attrs.fields(type(value)) if a.init}
    if isinstance(value, Mapping):
        return {k: unstructure(v) for k, v in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [unstructure(v) for v in value]
    return value


def field_table(config: type) -> list[tuple[str, str, str, str]]:
    """(name, type, default, help) of each field of an attrs class; help from the field's metadata ``help``.

    A field that holds a config of its own, or none, is followed by that one's, as ``name.inner``.
    """
    hints, within = get_type_hints(config), inner_configs(config)
    rows = []
    for a in attrs.fields(config):
        if a.default is attrs.NOTHING:
            default = "required"
        elif isinstance(a.default, attrs.Factory):  # type: ignore[arg-type]
            default = repr(unstructure(a.default.factory()))
        else:
            default = repr(unstructure(a.default))
        kind = hints.get(a.name, a.type)
        text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
        inner = within.get(a.name)
        if inner is not None:
            text = text.replace(f"{inner.__module__}.{inner.__qualname__}", inner.__name__)
        rows.append((a.name, text.replace("collections.abc.", ""), default, str(a.metadata.get("help", ""))))
        if inner is not None and (kind is inner or get_origin(kind) is UnionType):
            rows += [(f"{a.name}.{row[0]}", row[1], row[2], row[3]) for row in field_table(inner)]
    return rows


def digest(plain: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys; 64 hex digits."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, default=unstructure)
    return hashlib.sha256(text.encode()).hexdigest()
