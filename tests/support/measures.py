"""How far the code is from its house rules, in numbers and names: what ``tests/house/ratchets.yaml`` holds down.

``python tests/support/measures.py`` writes today's measures into that file wherever they are smaller. Whoever
raises a number there by hand says why in the commit's message.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import yaml
from source_tree import (
    ROOT,
    Function,
    circles,
    definitions,
    docstrings,
    folder,
    graph,
    module_of,
    modules,
    nodes,
    package_files,
    python_files,
    room,
    short,
)

RATCHETS = ROOT / "tests" / "house" / "ratchets.yaml"
Measure = Mapping[str, float]
"""Names and numbers: the number is how often, how long or how many; 1 where the name alone counts."""

LAYERS = {
    **dict.fromkeys(("errors", "contracts", "config", "nn", "launch"), 1),
    **dict.fromkeys(("catalog", "storage"), 2),
    **dict.fromkeys(("recipe", "data"), 3),
    "model": 4,
    **dict.fromkeys(("weights", "builtin"), 5),
    "sampling": 6,
    "training": 7,
    **dict.fromkeys(("api", "cli", "testing"), 8),
}
EVERYONES = {"errors", "contracts"}
BY_NAME = "builtin"
"""Reached through the catalog alone."""

MOST_FILES, MOST_LINES, MOST_PARAMETERS, LONGEST_CLASS = 15, 50, 7, 200
OPENERS = ("What", "Whether", "Where", "Which", "How", "Of")
_RELATIVE = re.compile(r"\b(?:that|which|what|whose|where)\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_COMMAND_LINE = re.compile(r"(?<![\w-])--[a-z][a-z-]+|ldm-run")


def upward_imports() -> Measure:
    """Imports of the core that go up, sideways or to ``builtin``, as ``MODULE -> MODULE``."""
    found = {}
    for name, out in graph().items():
        here = LAYERS.get(room(name)) if name.startswith("ldm_core.") else None
        for other in out if here else ():
            there = room(other)
            if other == "ldm_core":  # its face reaches up to sampling; descriptors are written as a plugin's
                wrong = room(name) not in (BY_NAME, "cli", "testing")
            elif not other.startswith("ldm_core.") or there == room(name) or there in EVERYONES:
                wrong = False
            else:
                wrong = there == BY_NAME or LAYERS[there] >= (here or 0)
            if wrong:
                found[f"{name} -> {other}"] = 1
    return found


def files_in_circles() -> Measure:
    """Files that import one another in a circle, anywhere in the repository."""
    return {name: 1 for group in circles(graph()) for name in group}


def folders_in_circles() -> Measure:
    """Folders of the core and the plugins that import one another in a circle; a folder and one inside it are one."""
    edges: dict[str, set[str]] = {}
    for name, out in graph().items():
        if name.startswith(("ldm_core.", "ldm_plugin_")):
            here = folder(name)
            inner = {folder(o) for o in out if o.startswith(("ldm_core.", "ldm_plugin_"))}
            apart = {o for o in inner if not (f"{o}.".startswith(f"{here}.") or f"{here}.".startswith(f"{o}."))}
            edges.setdefault(here, set()).update(apart)
    return {name: 1 for group in circles({k: frozenset(v) for k, v in edges.items()}) for name in group}


def full_folders() -> Measure:
    """Folders with more Python files than a reader takes in."""
    counts = Counter(short(f.parent) for f in python_files())
    return {name: n for name, n in counts.items() if n > MOST_FILES}


def long_functions() -> Measure:
    """Functions over 50 lines, as ``ROOM:NAME``."""
    sizes = ((name, _size(node)) for name, node in _named() if not isinstance(node, ast.ClassDef))
    return {name: n for name, n in sizes if n > MOST_LINES}


def long_classes() -> Measure:
    """Classes over 200 lines."""
    sizes = ((name, _size(node)) for name, node in _named() if isinstance(node, ast.ClassDef))
    return {name: n for name, n in sizes if n > LONGEST_CLASS}


def many_parameters() -> Measure:
    """Functions with more than 7 parameters."""
    counts = ((name, _parameters(node)) for name, node in _named() if not isinstance(node, ast.ClassDef))
    return {name: n for name, n in counts if n > MOST_PARAMETERS}


def lines() -> Measure:
    """Lines of each package."""
    return _by_room(lambda name: len(modules()[name].read_text(encoding="utf-8").splitlines()))


def untyped() -> Measure:
    """Mentions of ``Any`` in each package."""
    return _by_room(lambda name: sum(_is_any(node) for node in nodes(modules()[name])))


def odd_docstrings() -> Measure:
    """Docstrings that begin with a question's word, so that their subject comes late."""
    found = Counter[str]()
    for path in package_files():
        opened = (text.split()[0].rstrip(",:;") for _, text in docstrings(path) if text)
        found[_group(module_of(path))] += sum(word in OPENERS for word in opened)
    return found


def relative_words() -> Measure:
    """Relative words in a hundred of the docstrings' words."""
    words, relative = Counter[str](), Counter[str]()
    for path in package_files():
        for _, text in docstrings(path):
            words[_group(module_of(path))] += len(_WORD.findall(text))
            relative[_group(module_of(path))] += len(_RELATIVE.findall(text))
    return {name: round(100 * relative[name] / count, 2) for name, count in words.items()}


def optional_names() -> Measure:
    """``getattr(x, "name", default)`` and ``hasattr(x, "name")``: a slip in the name goes unseen."""
    found = Counter[str]()
    for path in package_files():
        calls = [n for n in nodes(path) if isinstance(n, ast.Call) and len(n.args) > 1]
        found[_group(module_of(path))] += sum(_asks_by_name(call) for call in calls)
    return found


def spoken_flags() -> Measure:
    """Strings with an option or a command of ``ldm-run``, outside the command line."""
    texts = (
        node.value
        for name, path in modules().items()
        if name.startswith("ldm_core.") and room(name) != "cli"
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return {"core": sum(bool(_COMMAND_LINE.search(text)) for text in texts)}


def waived() -> Measure:
    """Functions for which ruff's limits of complexity and parameters are waived."""
    text = "\n".join(f.read_text(encoding="utf-8") for f in python_files())
    marks = re.findall(r"#\s*noqa:([^#\n]*)", text)
    return {code: n for code in ("C901", "PLR0913") if (n := sum(code in mark for mark in marks))}


MEASURES: Mapping[str, Callable[[], Measure]] = {
    measure.__name__: measure
    for measure in (
        upward_imports,
        files_in_circles,
        folders_in_circles,
        full_folders,
        long_functions,
        long_classes,
        many_parameters,
        lines,
        untyped,
        odd_docstrings,
        relative_words,
        optional_names,
        spoken_flags,
        waived,
    )
}


def allowed() -> dict[str, dict[str, float]]:
    """The ratchets as they are written down."""
    found = yaml.safe_load(RATCHETS.read_text(encoding="utf-8"))
    return {rule: _as_measure(found.get(rule) or {}) for rule in MEASURES}


def hold(rule: str, advice: str) -> None:
    """Fail where the code breaks a rule more than ``ratchets.yaml`` allows."""
    found, limits = MEASURES[rule](), allowed()[rule]
    more = [f"{name}: {n:g}, allowed {limits.get(name, 0):g}" for name, n in found.items() if n > limits.get(name, 0)]
    assert not more, f"{rule}: {advice}\n" + "\n".join(more)


def tighten() -> None:
    """Write today's measures into the file, where they are smaller."""
    head = [line for line in RATCHETS.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    before, out = allowed(), {}
    for rule, measure in MEASURES.items():
        kept = {n: min(v, before[rule][n]) for n, v in sorted(measure().items()) if n in before[rule]}
        out[rule] = list(kept) if set(kept.values()) == {1} else kept
    RATCHETS.write_text("\n".join([*head, yaml.safe_dump(out, sort_keys=False, width=200)]), encoding="utf-8")


def _as_measure(value: object) -> dict[str, float]:
    if isinstance(value, list):
        return dict.fromkeys(value, 1)
    assert isinstance(value, dict)
    return value


def _named() -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for path in package_files():
        for name, node in definitions(path):
            yield f"{room(module_of(path))}:{name}", node


def _size(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: Function) -> int:
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")]
    return len(names) + (given.vararg is not None) + (given.kwarg is not None)


def _by_room(count: Callable[[str], int]) -> Measure:
    found = Counter[str]()
    for path in package_files():
        found[room(module_of(path))] += count(module_of(path))
    return found


def _group(module: str) -> str:
    return "core" if module.startswith("ldm_core") else "plugins"


def _is_any(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")


def _asks_by_name(call: ast.Call) -> bool:
    function, name = call.func, call.args[1]
    if not (isinstance(function, ast.Name) and isinstance(name, ast.Constant) and isinstance(name.value, str)):
        return False
    return function.id == "hasattr" or (function.id == "getattr" and len(call.args) == 3)


if __name__ == "__main__":
    tighten()
