"""A foreign config.json read key by key: every value is checked, and all mistakes are told at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from ldm_core.errors import ConfigError

Plain = Mapping[str, Any]
"""A JSON object, or a part of a recipe, as plain values."""
LIMIT = 1 << 24
"""The largest width, count or length read. No real model has more; a larger one would only ask for memory."""
LAYERS = 256
"""The most layers of a kind read, in a level or in a text encoder."""


@attrs.frozen
class Field:
    """A setting under both names. `default` gives its type, and its value if the config has none."""

    theirs: str
    ours: str
    default: Any
    least: float = 1
    most: float = LIMIT
    allowed: Collection[str] = ()


def theirs(fields: Sequence[Field], part: Plain) -> dict[str, Any]:
    """The config's keys and values for the settings of `part`."""
    return {field.theirs: part[field.ours] for field in fields}


def shown(value: Any) -> str:
    """`value` in a few characters, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def together(makers: Mapping[str, Callable[[], Any]], problems: Sequence[str] = ()) -> dict[str, Any]:
    """Call every maker and return the results by name. ConfigError with the problems of all, `problems` first."""
    made, found = {}, list(problems)
    for name, make in makers.items():
        try:
            made[name] = make()
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)
    return made


class Values:
    """The values of a config; `where` names it in messages. Call :meth:`finish` after the last key."""

    def __init__(self, plain: Plain, where: str) -> None:
        self.plain, self.where = plain, where
        self.problems: list[str] = []
        self._asked: set[str] = set()

    def say(self, key: str, allowed: str) -> None:
        """Note a problem: `key` has a value other than `allowed`."""
        self.problems.append(f"{self.where}: {key} is {shown(self.get(key))}; {allowed}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is, null included; `default` if the key is missing."""
        self._asked.add(key)
        return self.plain.get(key, default)

    def fields(self, fields: Sequence[Field]) -> dict[str, Any]:
        """Settings under our names."""
        return {field.ours: self._field(field) for field in fields}

    def _field(self, field: Field) -> Any:
        if isinstance(field.default, bool):
            return self.flag(field.theirs, field.default)
        if isinstance(field.default, str):
            return self.choice(field.theirs, field.default, field.allowed)
        if isinstance(field.default, float):
            return self.number(field.theirs, field.default, least=field.least, most=field.most)
        return self.whole(field.theirs, field.default, least=int(field.least), most=int(field.most))

    def whole(self, key: str, default: int | None, *, least: int = 1, most: int = LIMIT) -> int:
        """A whole number from `least` to `most`; the key must be there if `default` is None."""
        value = self.get(key, default)
        if not _is_whole(value, least) or value > most:
            self.say(key, f"expected a whole number from {least} to {most}")
            return max(least, 1)
        return value

    def number(self, key: str, default: float, *, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number from `least` to `most`."""
        value = self.get(key, default)
        if not is_number(value) or not least <= value <= most:
            bounded = math.isfinite(least) or math.isfinite(most)
            self.say(key, "expected a finite number" + (f" from {least:g} to {most:g}" if bounded else ""))
            return default
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.say(key, "expected true or false")
            return default
        return value

    def choice(self, key: str, default: Any, allowed: Collection[Any]) -> Any:
        """One of `allowed`, the values possible for this package's parts."""
        value = self.get(key, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            words = ", ".join("null" if one is None else str(one) for one in allowed)
            self.say(key, f"this package's parts can express: {words}")
            return default
        return value

    def only(self, **expected: Any) -> None:
        """Keys with one allowed value each; a missing key means this value too."""
        for key, value in expected.items():
            found = self.get(key, value)
            same = found == value and isinstance(found, bool) == isinstance(value, bool)
            if not same and not (isinstance(found, list) and found and all(one == value for one in found)):
                self.say(key, f"this package's parts can express: {'null' if value is None else value}")

    def wholes(self, key: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of whole numbers above 0, from 1 to 64 of them."""
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not 0 < len(value) <= 64 or not all(_is_whole(v, 1) for v in value):
            self.say(key, "expected a list of whole numbers above 0")
            return (1,)
        return tuple(value)

    def one_or_each(self, key: str, default: int, levels: int) -> tuple[int, ...]:
        """A whole number for all levels, or a list with one for each."""
        value = self.get(key, default)
        row = [value] * levels if not isinstance(value, list | tuple) else list(value)
        if len(row) != levels or not all(_is_whole(v, 1) for v in row):
            self.say(key, f"expected a whole number above 0, or a list of {levels} of them")
            return (1,) * levels
        return tuple(row)

    def same(self, key: str, default: int, levels: int) -> int:
        """A whole number for all levels; a list of equal numbers is allowed."""
        row = self.one_or_each(key, default, levels)
        if len(set(row)) > 1 or row[0] > LAYERS:
            self.say(key, f"this package's parts have one number for all levels, up to {LAYERS}")
            return 1
        return row[0]

    def words(self, key: str, default: Sequence[str], allowed: Collection[str], levels: int) -> tuple[str, ...]:
        """A list of `levels` names out of `allowed`."""
        value = self.get(key, list(default))
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            self.say(key, "expected a list of names")
        elif len(value) != levels:
            self.say(key, f"expected {levels}, as many as block_out_channels")
        elif unknown := [v for v in value if v not in allowed]:
            self.problems.append(
                f"{self.where}: {key} has '{unknown[0][:60]}'; this package's parts can express: {', '.join(allowed)}"
            )
        else:
            return tuple(value)
        return (next(iter(allowed)),) * levels

    def multiples(self, key: str, widths: Sequence[int]) -> list[int]:
        """The levels' `widths`, found under `key`, as multiples of the first."""
        if uneven := [w for w in widths if w % widths[0]]:
            self.say(key, f"{uneven[0]} is no multiple of the first, {widths[0]}, as this package's parts need")
        return [w // widths[0] for w in widths]

    def sample_size(self) -> tuple[int, int] | None:
        """`sample_size` as (height, width); None if the config has none."""
        size = self.get("sample_size")
        if size is None:
            return None
        pair = size if isinstance(size, list | tuple) else [size, size]
        if len(pair) != 2 or not all(_is_whole(v, 1) and v <= 1 << 16 for v in pair):
            self.say("sample_size", "expected a whole number, or [height, width]")
            return None
        return pair[0], pair[1]

    def ignore(self, *keys: str) -> None:
        """Keys without influence on the output of a trained model."""
        self._asked.update(keys)

    def finish(self) -> None:
        """ConfigError with all problems. A key not asked for is one, unless its value is null or false."""
        for key, value in self.plain.items():
            if key not in self._asked and not str(key).startswith("_") and value not in (None, False):
                self.problems.append(
                    f"{self.where}: unknown key {str(key)[:60]} with value {shown(value)}, which may change the "
                    "result; remove it if it does not"
                )
        if self.problems:
            raise ConfigError(self.problems)


def is_number(value: Any) -> bool:
    """True for a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LIMIT
