"""Types and ranges of the arguments of ``Pipeline.sample``, checked before anything else: one door for Python and the
command line. Imports no torch."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_core.config.documents import not_unicode
from ldm_core.errors import ConfigError, quoted

_LONGEST = 10_000_000  # images of one call: their inputs alone would fill a machine's memory
_MOST_STEPS = 1_000_000
_WHOLE = {"images": 1, "steps": 1, "batch": 1, "seed": None}
_ARRAYS = {
    "image": "uint8 (channels, height, width)",
    "segmentation": "whole numbers (height, width)",
    "mask": "(height, width)",
    "boxes": "rows of x, y, w, h in [0, 1]",
    "embedding": "(width,)",
}
_NUMBERS = {
    "strength": "a share of the steps, above 0 and up to 1",
    "stop": "a share of the steps, from 0 to below 1",
}


def require_arguments(given: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError`, a line with the argument's name each, for impossible values: another type, out of
    range, NaN or infinite, text with broken Unicode. None passes."""
    given = {name: value for name, value in given.items() if value is not None}
    problems = [*_numbers(given), *_texts(given), *_rows(given), *_others(given)]
    if problems:
        raise ConfigError(problems)


def _numbers(given: Mapping[str, Any]) -> Iterator[str]:
    for name, least in _WHOLE.items():
        if name in given and not _is_whole(given[name], least):
            above = "" if least is None else " above 0"
            yield f"{name}={_shown(given[name])}: expected a whole number{above}"
        elif name == "images" and name in given and given[name] > _LONGEST:
            yield f"images={_shown(given[name])}: at most {_LONGEST:,} at once"
        elif name == "steps" and name in given and given[name] > _MOST_STEPS:
            yield f"steps={_shown(given[name])}: at most {_MOST_STEPS:,}"
    if "seeds" in given:
        seeds = given["seeds"]
        if isinstance(seeds, str | bytes | Mapping) or not _is_sequence(seeds):
            yield f"seeds={_shown(seeds)}: expected a list of whole numbers, one an image"
        elif wrong := next(((i, s) for i, s in enumerate(seeds) if not _is_whole(s, None)), None):
            yield f"seeds: number {wrong[0]} is {_shown(wrong[1])}; expected whole numbers, one an image"
    for name, what in _NUMBERS.items():
        if name in given and not _is_number(given[name]):
            yield f"{name}={_shown(given[name])}: expected {what}"
    guidance = given.get("guidance")
    if guidance is not None and not isinstance(guidance, str) and not _is_number(guidance):
        yield (
            f"guidance={_shown(guidance)}: expected a finite scale, such as 3 (1 is without guidance), or the name of "
            "a guidance"
        )


def _texts(given: Mapping[str, Any]) -> Iterator[str]:
    for name in ("guidance", "sampler", "time_grid"):
        value = given.get(name)
        if name != "guidance" and value is not None and not isinstance(value, str):
            yield f"{name}={_shown(value)}: expected the name of a component"
        elif isinstance(value, str) and (problem := text_problem(value)):
            yield f"{name}: {problem}"
    for name in ("prompts", "negative"):
        value = given.get(name)
        if value is None or (name == "negative" and isinstance(value, Mapping)):
            continue
        if isinstance(value, str):
            texts: Sequence[Any] = [value]
        elif isinstance(value, bytes | Mapping) or not _is_sequence(value):
            more = ", or a mapping as inputs is" if name == "negative" else ""
            yield f"{name}: expected a text or a list of texts{more}, got {_shown(value)}"
            continue
        else:
            texts = value
        for i, text in enumerate(texts):
            if problem := text_problem(text):
                yield f"{name}{f', number {i}' if len(texts) > 1 else ''}: {problem}"
                break


def text_problem(value: Any) -> str:
    """Say why a value is no caption; "" for a good one."""
    if not isinstance(value, str):
        return f"expected a text, got {_shown(value)}"
    return not_unicode(value)


def _rows(given: Mapping[str, Any]) -> Iterator[str]:
    for name in ("inputs", "negative"):
        value = given.get(name)
        if isinstance(value, Mapping):
            yield from _row(name, value)
        elif value is not None and name == "inputs":
            yield f"inputs: expected a mapping from a conditioner's key to its value, got {_shown(value)}"
    examples = given.get("examples")
    if examples is None:
        return
    if isinstance(examples, str | bytes | Mapping) or not _is_sequence(examples):
        yield f"examples: expected a list of mappings, one an image, got {_shown(examples)}"
        return
    for i, row in enumerate(examples):
        found = [*_row(f"examples[{i}]", row)] if isinstance(row, Mapping) else []
        if not isinstance(row, Mapping):
            found = [f"examples[{i}]: expected a mapping from keys to values, got {_shown(row)}"]
        if found:
            yield from found
            return


def _row(name: str, row: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in row.items():
        if not isinstance(key, str):
            yield f"{name}: a key is {_shown(key)}; keys are texts, such as 'caption'"
        elif key in _ARRAYS and not _is_array(value):
            yield f"{name}['{key}']: expected an array of numbers, {_ARRAYS[key]}, got {_shown(value)}"
        elif isinstance(value, str) or key == "caption":
            if problem := text_problem(value):
                yield f"{name}['{key}']: {problem}"
        elif not _is_finite(value):
            yield f"{name}['{key}']: holds values that are not finite (NaN or infinite)"


def _others(given: Mapping[str, Any]) -> Iterator[str]:
    for name in ("project_x0", "strict"):
        if name in given and not isinstance(given[name], bool | np.bool_):
            yield f"{name}={_shown(given[name])}: expected True or False"
    for name, of in (("callback", "the progress"), ("done", "the images of a batch")):
        if name in given and not callable(given[name]):
            yield f"{name}={_shown(given[name])}: expected a function of {of}"


def _is_whole(value: Any, least: int | None) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and (least is None or int(value) >= least)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _is_array(value: Any) -> bool:
    """True for numbers on one axis or more, in an array, a tensor or lists; not for text or ragged lists."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and value.dtype.kind in "biuf"
    if _is_tensor(value):
        return value.dim() > 0
    if not isinstance(value, list | tuple):
        return False
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return False


def _is_finite(value: Any) -> bool:
    """False for NaN or infinity in a number, an array or a list of them; all else is for its conditioner."""
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    return not _is_tensor(value) or bool(value.isfinite().all())


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _shown(value: Any) -> str:
    if isinstance(value, str | bytes | bool | numbers.Number | None):
        return quoted(value)
    return f"{type(value).__name__} {quoted(value)}"
