"""Overrides ``a.b.c=value`` on top of plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ldm_core.config.documents import DEEPEST
from ldm_core.config.documents import parse_yaml as parse_yaml
from ldm_core.config.key_hints import without_space
from ldm_core.config.structure import _NOTHING, _show
from ldm_core.errors import ConfigError, clean, suggest


def apply_overrides(plain: dict[str, Any], overrides: Iterable[str], parts: Iterable[str]) -> None:
    """Apply ``a.b.c=value`` to `plain` in place; values are read as YAML.

    A component given by its bare name becomes a mapping when a key of it is set, and so does a choice within one;
    `parts` are the top-level keys that hold components. Members of a list are named by number or by their ``name`` or
    ``use``: ``conditioners.text.dropout=0.2``.
    """
    parts = set(parts)
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        shown = clean(override, 100)
        if not equals or not all(keys):
            problems.append(f"'{shown}': expected KEY=VALUE such as trainer.steps=1000")
            continue
        if len(keys) > DEEPEST:
            problems.append(f"'{shown}': {len(keys)} names deep; {DEEPEST} at most")
            continue
        if not text.strip() and len(keys) == 1:
            problems.append(f"'{shown}': empty; give a value, or leave it out ({clean(path)}=[] is an empty list)")
            continue
        try:
            value = parse_yaml(text, f"'{shown}'") if text.strip() else _NOTHING
            if split := without_space(value):
                problems.append(f"'{shown}': a space is missing after the colon; write '{split}'")
                continue
            _assign(plain, keys, value, parts)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _assign(node: Any, keys: list[str], value: Any, parts: set[str]) -> None:
    path, within = clean(".".join(keys), 100), False
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node, within = node[_member(node, key, path)], True
            continue
        child, within = node.get(key), within or key in parts
        if isinstance(child, str) and within:
            child = node[key] = {"use": child}
        elif isinstance(child, str) and depth == 0 and keys[1] == child:  # a list of one, by its bare name
            child = node[key] = [{"use": child}]
        elif isinstance(child, dict) and depth == 0 and key not in parts and child.get("use") == keys[1]:
            child = node[key] = [child]
        elif child is None and (key in parts or depth == 0 or key not in node):
            child = node[key] = {}
        elif isinstance(child, list):
            child = node[key] = [{"use": c} if isinstance(c, str) else c for c in child]
        elif not isinstance(child, dict):
            raise ConfigError(
                f"{path}: '{clean('.'.join(keys[: depth + 1]), 100)}' is {_show(child)} and has no settings of its own"
            )
        node = child
    last = keys[-1]
    place: Any = _member(node, last, path) if isinstance(node, list) else last
    if value is _NOTHING:  # KEY= with nothing behind it: no text in place of a text
        before = node[place] if isinstance(node, list) else node.get(place)
        value = "" if isinstance(before, str) else None
    node[place] = value


def _member(node: list[Any], key: str, path: str) -> int:
    names = [str(m.get("name") or m.get("use", "")) if isinstance(m, dict) else str(m) for m in node]
    if key.isdecimal() and len(key) < 9 and int(key) < len(node):
        return int(key)
    if key in names:
        return names.index(key)
    there = clean(", ".join(names) or "none", 200)
    raise ConfigError(f"{path}: no member '{clean(key, 60)}'{suggest(key, names)} (there are: {there})")
