"""YAML and JSON as plain values, of bounded depth and size; every mistake is one line naming file and line.

Reading a document, whatever its content, makes no object of a class, refers to nothing outside, and ends soon.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import yaml

from ldm_core.errors import ConfigError, LDMError, clean, quoted

DEEPEST = 64
"""Levels of lists and mappings allowed in a document."""
MOST_VALUES = 200_000
"""Values of a YAML document, its aliases spelled out."""
MOST_JSON_VALUES = 1_000_000
"""Values allowed in a JSON document, possibly a tokenizer's vocabulary."""
MOST_DIGITS = 400
"""Characters of a number; no setting needs as many, and Python neither reads nor shows 4,301 digits."""

_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge", "value")
)
_DAY = "tag:yaml.org,2002:timestamp"
_HALVES = re.compile("[\ud800-\udfff]")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class _Loader(yaml.SafeLoader):
    """YAML's plain values alone, counted as they are read. 1e-4 is a number, as everybody writes it; a day is text."""

    def __init__(self, text: str, *, aliases: bool, most: int) -> None:
        super().__init__(text)
        self._aliases, self._most = aliases, most
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # of complete nodes: their values, aliases spelled out
        self.aliased = False

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:  # type: ignore[override]
        """As a SafeLoader's, within the limits: a few lines of aliases can stand for more values than there are
        atoms."""
        event = self.peek_event()
        before = self._values
        self._values += 1
        if isinstance(event, yaml.AliasEvent):
            if not self._aliases:
                _refuse("aliases (*name) are not read in a file from elsewhere; write the value out", event)
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                _refuse(f"'*{clean(event.anchor, 60)}' stands within the value that it names", event)
            self._values += self._sizes[id(node)] - 1
            self.aliased = True
        else:
            self._depth += 1
            if self._depth > DEEPEST:
                _refuse(f"nested too deeply; {DEEPEST} levels at most", event)
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._sizes[id(node)] = self._values - before
        if self._values > self._most:
            _refuse(f"more than {self._most:,} values, aliases (*name) spelled out", event)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As a SafeLoader's; whatever it raises, such as for ``!!int x``, names the line."""
        if node.tag not in _TAGS and node.tag != _DAY:
            _refuse(f"a value of the kind {quoted(_short(node.tag), 60)} is not read", node)
        try:
            if _short(node.tag) in ("!!int", "!!float") and len(node.value) > MOST_DIGITS:
                _refuse(f"a number of {len(node.value):,} characters", node)
            value = super().construct_object(node, deep)
            return node.value if node.tag == _DAY else value
        except (yaml.YAMLError, LDMError):
            raise
        except Exception:
            seen = quoted(node.value, 60) if isinstance(node, yaml.ScalarNode) else "the value"
            kind = "a day; put it in quotes" if node.tag == _DAY else _short(node.tag)
            _refuse(f"{seen} does not read as {kind}", node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As a SafeLoader's, but no key silently replaces another."""
        seen: set[Any] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            same = {key.value, self.construct_object(key, deep=True)}  # 1 and 0x1 are one key, and 1 and '1' read alike
            if same & seen:
                _refuse(f"the key '{clean(key.value, 60)}' comes twice", key)
            seen |= same
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)"
        r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _refuse(what: str, place: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, what, place.start_mark) from None


def parse_yaml(
    text: str | bytes,
    where: str,
    error: type[Exception] = ConfigError,
    *,
    aliases: bool = True,
    most: int = MOST_VALUES,
) -> Any:
    """YAML -> None, bool, int, float, str, lists and dicts; no two places share one of these.

    A mistake is an `error` of one line with `where` and the line: syntax, keys that come twice, numbers beyond
    :data:`MOST_DIGITS`, more than :data:`DEEPEST` levels, more than `most` values. `aliases`: False refuses ``*name``,
    for files from elsewhere.
    """
    text = _text(text, where, error)
    try:
        loader = _Loader(text, aliases=aliases, most=most)
        value = loader.get_single_data()
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        raise error(f"{clean(where)} line {line}: holds the character {_named(problem.character)}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line_of = f" line {mark.line + 1}" if mark else ""
        said = clean(getattr(problem, "problem", None) or str(problem), 300)
        raise error(f"{clean(where)}{line_of}: not readable as YAML ({said})") from None
    except (RecursionError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as problem:
        raise error(f"{clean(where)}: not readable as YAML ({clean(str(problem), 200)})") from None
    _no_halves(value, text, where, error)
    return _unshared(value) if loader.aliased else value


def parse_json(
    text: str | bytes, where: str, error: type[Exception] = ConfigError, *, most: int = MOST_JSON_VALUES
) -> Any:
    """JSON -> None, bool, int, float, str, lists and dicts.

    A mistake is an `error` of one line with `where`, and the line if it is known: syntax, keys that come twice, numbers
    beyond :data:`MOST_DIGITS`, more than :data:`DEEPEST` levels, more than `most` values.
    """
    text = _text(text, where, error)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=_integer, parse_float=_number)
        if text.count("[") + text.count("{") > DEEPEST or text.count(",") + text.count("[") + text.count("{") > most:
            _count(value, [most], 0)
    except json.JSONDecodeError as problem:
        line = f" line {problem.lineno}" if text.rstrip().count("\n") else ""
        raise error(f"{clean(where)}{line}: not readable as JSON ({clean(problem.msg, 200)})") from None
    except RecursionError:
        raise error(f"{clean(where)}: not readable as JSON (nested too deeply; {DEEPEST} levels at most)") from None
    except ValueError as problem:
        raise error(f"{clean(where)}: not readable as JSON ({clean(str(problem), 200)})") from None
    _no_halves(value, text, where, error)
    return value


def _text(text: str | bytes, where: str, error: type[Exception]) -> str:
    """UTF-8 as text, without a byte order mark."""
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise error(f"{clean(where)}: is UTF-16; save it as UTF-8")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = text.count(b"\n", 0, problem.start) + 1
        raise error(f"{clean(where)} line {line}: is not UTF-8 (byte 0x{text[problem.start]:02x})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {quoted(twice, 60)} comes twice")
    return out


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} characters")
    return float(digits)


def _count(value: Any, left: list[int], depth: int) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("more values than any such file has")
    if not isinstance(value, dict | list):
        return
    if depth >= DEEPEST:
        raise RecursionError
    for each in value.values() if isinstance(value, dict) else value:
        _count(each, left, depth + 1)


def texts(value: Any) -> Iterable[str]:
    """Every text in plain values, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from texts(key)
            yield from texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(each)


def not_unicode(value: Any) -> str:
    """The fault of the first text within `value` that no file can hold; empty if all are Unicode.

    Such are the halves of surrogate pairs: of an emoji cut in two, or bytes other than UTF-8.
    """
    for each in texts(value):
        if _HALVES.search(each):
            return f"{quoted(each, 60)} is not Unicode (bytes that are no UTF-8, or half of a surrogate pair)"
    return ""


def _no_halves(value: Any, text: str, where: str, error: type[Exception]) -> None:
    """Refuse halves of surrogate pairs, which are no characters: nothing can write them down, and no tokenizer reads
    them."""
    if not _HALF_ESCAPE.search(text) and not _HALVES.search(text):
        return
    if problem := not_unicode(value):
        raise error(f"{clean(where)}: {problem}")


def _named(character: Any) -> str:
    code = character if isinstance(character, int) else ord(character)
    return f"U+{code:04X}, which YAML does not allow; is it a text file in UTF-8?"


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def dump_yaml(value: Any, *, ascii_only: bool = False) -> str:
    """Plain values -> YAML, keys in their order; `ascii_only`: other characters as escapes."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=not ascii_only, width=110, default_flow_style=None)
