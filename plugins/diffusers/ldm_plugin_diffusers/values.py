"""Values of a foreign config.json: each asked for by name with what it may be, every mistake told at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ldm_core.errors import ConfigError

LIMIT = 1 << 24
"""No width, count or length of a real model is above it; a config that says so would only ask for memory."""
LAYERS = 256
"""No model has more layers of a kind in a level, or in a text encoder."""


def shown(value: Any) -> str:
    """`value` in a few characters, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Values:
    """A mapping read key by key; `where` names it in messages. Call :meth:`finish` when all keys were asked for."""

    def __init__(self, plain: Mapping[str, Any], where: str) -> None:
        self.plain, self.where = plain, where
        self.problems: list[str] = []
        self._asked: set[str] = set()

    def say(self, key: str, allowed: str) -> None:
        """Note that the value of `key` is none of what is `allowed`."""
        self.problems.append(f"{self.where}: {key} is {shown(self.get(key))}; {allowed}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is, null included; `default` where there is none."""
        self._asked.add(key)
        return self.plain.get(key, default)

    def whole(self, key: str, default: int | None, *, least: int = 1, most: int = LIMIT) -> int:
        """A whole number from `least` to `most`; without a `default` it has to be there."""
        value = self.get(key, default)
        if not _is_whole(value, least) or value > most:
            self.say(key, f"expected a whole number from {least} to {most}")
            return max(least, 1)
        return value

    def number(self, key: str, default: float, *, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number from `least` to `most`."""
        value = self.get(key, default)
        fine = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if not fine or not least <= value <= most:
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
        """One of `allowed`, which is all that this package's parts can express."""
        value = self.get(key, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            words = ", ".join("null" if one is None else str(one) for one in allowed)
            self.say(key, f"this package's parts can express: {words}")
            return default
        return value

    def only(self, **expected: Any) -> None:
        """Keys that must have one value, which is also what their absence means."""
        for key, value in expected.items():
            found = self.get(key, value)
            same = found == value and isinstance(found, bool) == isinstance(value, bool)
            if not same and not (isinstance(found, list) and found and all(one == value for one in found)):
                self.say(key, f"this package's parts can express: {'null' if value is None else value}")

    def wholes(self, key: str, default: Sequence[int] | None) -> tuple[int, ...]:
        """A list of one whole number above 0 or more."""
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not 0 < len(value) <= 64 or not all(_is_whole(v, 1) for v in value):
            self.say(key, "expected a list of whole numbers above 0")
            return (1,)
        return tuple(value)

    def one_or_each(self, key: str, default: int, levels: int) -> tuple[int, ...]:
        """A whole number for all levels, or a list of one for each."""
        value = self.get(key, default)
        row = [value] * levels if not isinstance(value, list | tuple) else list(value)
        if len(row) != levels or not all(_is_whole(v, 1) for v in row):
            self.say(key, f"expected a whole number above 0, or a list of {levels} of them")
            return (1,) * levels
        return tuple(row)

    def same(self, key: str, default: int, levels: int) -> int:
        """A whole number for all levels, also where it is given as a list of equal ones."""
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

    def ignore(self, *keys: str) -> None:
        """Keys that do not change what a trained model gives."""
        self._asked.update(keys)

    def finish(self) -> None:
        """ConfigError with all that is wrong; also for keys that nobody asked for, unless they are null or false."""
        for key, value in self.plain.items():
            if key not in self._asked and not str(key).startswith("_") and value not in (None, False):
                self.problems.append(
                    f"{self.where}: unknown key {str(key)[:60]} with value {shown(value)}, which may change the "
                    "result; remove it if it does not"
                )
        if self.problems:
            raise ConfigError(self.problems)


def multiples(values: Values, key: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Widths of levels as multiples of the first."""
    if uneven := [w for w in widths if w % widths[0]]:
        values.say(key, f"{uneven[0]} is no multiple of the first, {widths[0]}, as this package's parts need")
    return tuple(w // widths[0] for w in widths)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LIMIT
