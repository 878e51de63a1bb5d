"""What is to be sampled, as one mapping of conditioner inputs an image; the same for what is to be avoided."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ldm_core.config.documents import not_unicode
from ldm_core.errors import ConfigError, DataError, quoted
from ldm_core.recipe.recipe import Recipe

Negative: TypeAlias = "str | Sequence[str] | Mapping[str, Any]"
"""What to move away from: captions, gone through in turn, or any conditioner's inputs, the same for all images."""


def rows_of(
    recipe: Recipe,
    prompts: str | Sequence[str] | None,
    inputs: Mapping[str, Any] | None,
    examples: Sequence[Mapping[str, Any]] | None,
    images: int | None,
) -> list[dict[str, Any]]:
    """One mapping an image, as ``Pipeline.sample`` is called; :class:`DataError` where a conditioner lacks its input
    or nothing reads one."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts or [])
    given: list[dict[str, Any]]
    given = [dict(e) for e in examples] if examples else [{"caption": t} for t in texts] or [{}]
    several = bool(examples or texts)
    if problem := not_unicode([*given, inputs or {}]):
        raise DataError(f"sample: {problem}")
    count = images or (len(given) if several else (1 if inputs else recipe.sample.images))
    rows = [{**(inputs or {}), **given[i % len(given)]} for i in range(count)]
    for part in recipe.conditioners:
        lacking = [k for k in part.config.reads if any(k not in row for row in rows)]
        if lacking:
            raise DataError(
                f"conditioner '{part.name}' reads '{lacking[0]}', which was not given; give `inputs.{lacking[0]}`"
            )
    unknown = [k for row in ((inputs or {}), *(examples or ())) for k in row if k not in recipe.reads]
    if unknown:
        they = ", ".join(recipe.reads) or "nothing"
        raise DataError(f"no conditioner of this model reads {quoted(unknown[0])} (they read: {they})")
    if texts and "caption" not in recipe.reads:
        raise DataError(
            f"a prompt was given, and no conditioner of this model reads captions (they read: "
            f"{', '.join(recipe.reads) or 'nothing'})"
        )
    return rows


def seeds_of(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], seed: int | None, seeds: Sequence[int] | None
) -> list[int]:
    """The seed of each image: ``seeds[i]``, or ``seed + i`` (None: the recipe's). :class:`ConfigError` where the
    numbers of seeds and images differ."""
    base = recipe.sample.seed if seed is None else seed
    every = list(seeds) if seeds is not None else [base + i for i in range(len(rows))]
    if len(every) != len(rows):
        raise ConfigError(f"{len(every)} seeds were given for {len(rows)} images; give one an image")
    return every


def negative_rows(recipe: Recipe, rows: Sequence[Mapping[str, Any]], negative: Negative) -> list[dict[str, Any]]:
    """What each image is to move away from: the keys of `negative` alone, one mapping an image.

    Raises :class:`ConfigError` where the recipe's guidance makes no estimate without conditions, :class:`DataError`
    where no conditioner reads a key, or the one that does can never be without its condition.
    """
    guidance = recipe.guidance
    if not getattr(guidance.config, "needs_null", False):
        scale = getattr(guidance.config, "scale", None)
        shown = guidance.use + (f" at scale {scale:g}" if scale is not None else "")
        raise ConfigError(
            f"a negative prompt takes the place of the estimate without conditions, and guidance '{shown}' makes "
            "none; choose one that does, such as --guidance cfg guidance.scale=3, or leave the negative out"
        )
    if not negative and not isinstance(negative, str):  # an empty caption is one
        kind = "mapping" if isinstance(negative, Mapping) else "list"
        raise ConfigError(f"negative: an empty {kind}; give a text, or leave it out")
    if isinstance(negative, Mapping):
        out = [dict(negative) for _ in rows]
    else:
        texts = [negative] if isinstance(negative, str) else list(negative)
        out = [{"caption": texts[i % len(texts)]} for i in range(len(rows))]
    if problem := not_unicode(negative):
        raise DataError(f"negative: {problem}")
    for key in out[0] if out else ():
        readers = [c for c in recipe.conditioners if key in c.config.reads]
        if not readers:
            raise DataError(
                f"negative: no conditioner of this model reads '{key}' (they read: {', '.join(recipe.reads)})"
            )
        for part in readers:
            if not getattr(part.config, "droppable", True):
                raise DataError(
                    f"negative: conditioner '{part.name}', which reads '{key}', is never without its condition "
                    "(droppable: false), so that nothing can take the place of its null"
                )
    return out


def truncations(conditioners: Mapping[str, Any], prompts: Sequence[str]) -> list[str]:
    """For each prompt that is longer than a conditioner's context, a line that quotes what is cut."""
    lines = []
    for name, conditioner in conditioners.items():
        if (truncated := getattr(conditioner, "truncated", None)) is None:
            continue
        for prompt in dict.fromkeys(prompts):
            if cut := truncated(prompt):
                lines.append(f"the prompt is longer than conditioner '{name}' takes; cut off: '{cut}'")
    return lines


def omissions(conditioners: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What conditioners with a method ``omitted(example) -> str`` leave out of their inputs, a line for each."""
    lines = []
    for name, conditioner in conditioners.items():
        if (omitted := getattr(conditioner, "omitted", None)) is not None:
            lines += [f"conditioner '{name}' leaves out {what}" for row in rows if (what := omitted(row))]
    return list(dict.fromkeys(lines))


def in_words(row: Mapping[str, Any]) -> str:
    """A negative row as a picture's metadata holds it: the caption by itself, all else as JSON, arrays by shape."""
    if set(row) == {"caption"}:
        return str(row["caption"])
    row = {k: v.item() if isinstance(v, np.generic | np.ndarray) and np.ndim(v) == 0 else v for k, v in row.items()}
    plain = {k: v if isinstance(v, str | int | float) else f"array of shape {np.shape(v)}" for k, v in row.items()}
    return json.dumps(plain, ensure_ascii=False)


def as_data(value: Any, key: str = "") -> Any:
    """Lists of numbers become arrays, as a data set would give them; boxes keep the precision of their numbers, since a
    corner may lie on the middle of two cells."""
    if isinstance(value, list | tuple) and value and not isinstance(value[0], str):
        array = np.asarray(value)
        if array.dtype == np.float64 and key != "boxes":
            return array.astype(np.float32)
        return array if array.dtype != object else value
    return value
