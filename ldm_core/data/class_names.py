"""Classes as people write them: a name or a number becomes an index of the trained model. Torch-free.

A name wins over an index: if the classes are called 0, 1, 2, 10 and 11, ``10`` is the class of that name (index 3),
written as text or as a number. An index is taken if no class is called by a number. Integers and arrays of numpy, as
data sets give them, are indices already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ldm_core.contracts.answers import DatasetAnswers
from ldm_core.contracts.configs import ConditionerConfig, of
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, clean, suggest

KEYS = ("class_label", "box_labels")
"""The keys of an example that hold classes: one, and one for each box."""
_MOST = 12  # names that a message lists


def counts_of(recipe: Any) -> dict[str, int]:
    """Key -> the number of classes of the recipe's conditioners, if they say it."""
    return {
        key: count
        for part in recipe.conditioners
        if isinstance(count := of(ConditionerConfig, part.config).classes, int) and count > 0
        for key in part.config.reads
        if key in KEYS
    }


def labels_of(dataset: Any, key: str) -> Any:
    """(N,) int64, the class `key` of each example, -1 for one that cannot be read.

    A data set's own ``labels(key)`` knows them; of one without it, the examples are read with that key alone.
    """
    import numpy as np

    if (own := of(DatasetAnswers, dataset).labels) is not None:
        return np.asarray(own(key), dtype=np.int64)
    return read_labels(dataset.select([key]), key)


def read_labels(view: Any, key: str) -> Any:
    """The same, of a view with that key alone, whose examples are read."""
    import numpy as np

    found = np.full(len(view), -1, dtype=np.int64)
    for index in range(len(view)):
        try:
            found[index] = int(view[index][key])
        except BadExample:
            continue  # counted when it is trained on
    return found


def are_numbers(names: Iterable[str]) -> bool:
    """True if any class is called by a number; then a number without a name is no index either."""
    return any(_is_number(name) for name in names)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def index_of(key: str, said: str | int, names: Sequence[str], count: int = 0) -> int:
    """The index of the class called `said`; `count`: the number of classes without names.

    In this order: a name, the one name that is the same number (``7`` of ``007``), an index where no class is called by
    a number. :class:`ConfigError` else, with the nearest name and the list.
    """
    text = str(said).strip()
    for name in (str(said), text):
        if name in names:
            return list(names).index(name)
    if _is_number(text):
        same = [i for i, name in enumerate(names) if _is_number(name) and int(name) == int(text)]
        if len(same) == 1:
            return same[0]
        if not are_numbers(names):
            return held(key, int(text), count or len(names))
    elif isinstance(said, int):
        return held(key, said, count or len(names))
    listed = ", ".join(clean(name, 60) for name in names[:_MOST])
    known = f" (known: {listed}{', ...' if len(names) > _MOST else ''})" if names else ""
    fix = "" if names else "; the data has no class names, give the class's number"
    raise ConfigError(f"{key}: no class named '{clean(text, 60)}'{suggest(text[:80], names)}{known}{fix}")


def held(key: str, index: int, count: int) -> int:
    """`index`, if it is one of `count` classes (0: not known); :class:`ConfigError` else."""
    if count and not 0 <= index < count:
        raise ConfigError(f"{key}: no class {index}; there are {count} (0 to {count - 1})")
    return index


EVERY = "all"
"""The word for each class in turn, unless a class is called so."""


def spread(key: str, said: Iterable[str], names: Sequence[str], count: int = 0) -> list[str]:
    """The classes that are `said`, :data:`EVERY` spelled out by the `names` or the numbers of all; ConfigError where
    neither is known."""
    found: list[str] = []
    for text in said:
        if text.strip() != EVERY or EVERY in names:
            found.append(text)
        elif names or count:
            found += names or map(str, range(count))
        else:
            raise ConfigError(f"{key}: '{EVERY}': the model does not say how many classes it has; name some")
    return found


def indices(
    inputs: Mapping[str, Any],
    class_names: Mapping[str, Sequence[str]],
    classes: Mapping[str, int] | None = None,
    *,
    said: bool = False,
) -> dict[str, Any]:
    """`inputs` with the classes in it as indices: numpy integers and arrays, left alone a second time.

    `class_names` and `classes` (counts) are what the data, or the trained model, says of each key. With `said` all
    numbers are what a user wrote, those in arrays too. Raises :class:`ConfigError` with all mistakes.
    """
    import numpy as np

    out = dict(inputs)
    problems: list[str] = []

    def index(key: str, label: Any) -> int:
        names = list(class_names.get(key, ()))
        count = (classes or {}).get(key) or len(names)
        try:
            if isinstance(label, np.integer):
                return index_of(key, int(label), names, count) if said else held(key, int(label), count)
            return index_of(key, label, names, count)
        except ConfigError as error:
            problems.extend(error.problems)
            return 0

    label = out.get("class_label")
    if isinstance(label, int | str | np.integer) and not isinstance(label, bool):
        out["class_label"] = np.int64(index("class_label", label))
    labels: Any = out.get("box_labels")
    listed = isinstance(labels, list | tuple) or (isinstance(labels, np.ndarray) and labels.ndim == 1)
    if listed and all(isinstance(v, int | str | np.integer) and not isinstance(v, bool) for v in labels):
        out["box_labels"] = np.array([index("box_labels", v) for v in labels], dtype=np.int64)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return out


def shown(index: int, names: Sequence[str]) -> str:
    """A class for a reader: ``dog (1)``, or ``1`` where it has no name."""
    return f"{names[index]} ({index})" if 0 <= index < len(names) else str(index)
