"""Inputs of the images to sample, one mapping of conditioner keys an image; the same for inputs to avoid."""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np

from ldm_core.config.documents import not_unicode
from ldm_core.contracts.answers import ConditionerAnswers
from ldm_core.contracts.configs import ConditionerConfig, GuidanceConfig, of
from ldm_core.data.inputs.fitted import from_pictures
from ldm_core.data.inputs.forms import lacking
from ldm_core.data.sizes import default_sizes
from ldm_core.errors import ConfigError, DataError, quoted, suggest
from ldm_core.recipe.recipe import Recipe

Inputs: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]]"
"""Values of conditioners' keys: a mapping for all images, or a list of mappings, one an image, in turn."""
Negative: TypeAlias = "str | Sequence[str] | Mapping[str, Any]"
"""Inputs to move away from: captions, in turn, or any conditioner's inputs, the same for all images."""


def rows_of(
    recipe: Recipe, prompts: str | Sequence[str] | None, inputs: Inputs | None, images: int | None
) -> list[dict[str, Any]]:
    """Make one mapping an image of the arguments of ``Pipeline.sample``, prompts and lists gone through in turn.

    Without `images` there are as many as the longer of the two, one for a mapping alone, or the recipe's number.
    :class:`DataError` for an input that is missing, or that no conditioner reads.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts if prompts is not None else [])
    given: list[Any] = [inputs] if isinstance(inputs, Mapping) and inputs else list(inputs or [])
    given = [from_pictures(row, recipe) for row in given]
    if problem := not_unicode([*texts, *given]):
        raise DataError(f"sample: {problem}")
    several = max(len(texts), len(given))
    count = images or several or recipe.sample.images
    sizes = default_sizes(recipe.image_size, recipe.inputs)
    rows: list[dict[str, Any]] = [
        {**sizes, **(given[i % len(given)] if given else {}), **({"caption": texts[i % len(texts)]} if texts else {})}
        for i in range(count)
    ]
    for key in dict.fromkeys(key for row in given for key in row if key not in recipe.inputs):
        they = ", ".join(recipe.inputs) or "nothing"
        near = suggest(str(key), recipe.inputs)
        raise DataError(f"inputs: no conditioner of this model reads {quoted(key)}{near} (they read: {they})")
    if texts and "caption" not in recipe.reads:
        raise DataError(
            f"a prompt was given, and no conditioner of this model reads captions (they read: "
            f"{', '.join(recipe.reads) or 'nothing'})"
        )
    if missing := [key for key in recipe.inputs if any(key not in row for row in rows)]:
        raise DataError(lacking(recipe, missing))
    return rows


def seeds_of(recipe: Recipe, rows: Sequence[Mapping[str, Any]], seed: int | Sequence[int] | None) -> list[int]:
    """Give each image its seed: ``seed[i]``, or ``seed + i`` (None: the recipe's). :class:`ConfigError` if the
    numbers of seeds and images differ."""
    if seed is None or isinstance(seed, numbers.Integral):
        base = recipe.sample.seed if seed is None else int(seed)
        return [base + i for i in range(len(rows))]
    every = [int(each) for each in seed]  # type: ignore[union-attr]
    if len(every) != len(rows):
        raise ConfigError(f"{len(every)} seeds were given for {len(rows)} images; give one an image")
    return every


def count_of(images: int | None, seed: int | Sequence[int] | None) -> int | None:
    """Give the number of images that was asked for: `images`, or that of the listed seeds."""
    return images or (len(seed) if isinstance(seed, Sized) else None)


def negative_rows(recipe: Recipe, rows: Sequence[Mapping[str, Any]], negative: Negative) -> list[dict[str, Any]]:
    """Make one mapping an image of the keys of `negative`.

    Raises :class:`ConfigError` if the recipe's guidance makes no estimate without conditions, :class:`DataError` for
    a key without a conditioner, or with one that is never without its condition.
    """
    guidance = recipe.guidance
    config = of(GuidanceConfig, guidance.config)
    if not config.needs_null:
        scale = config.scale
        shown = guidance.use + (f" at scale {scale:g}" if scale is not None else "")
        raise ConfigError(
            f"a negative prompt takes the place of the estimate without conditions, and guidance '{shown}' makes "
            "none; choose one that does, such as `guidance=cfg` guidance.scale=3, or leave the negative out"
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
            if not of(ConditionerConfig, part.config).droppable:
                raise DataError(
                    f"negative: conditioner '{part.name}', which reads '{key}', is never without its condition "
                    "(droppable: false), so that nothing can take the place of its null"
                )
    return out


def truncations(conditioners: Mapping[str, Any], prompts: Sequence[str]) -> list[str]:
    """Quote the part beyond a conditioner's context, a line for each such prompt."""
    lines = []
    for name, conditioner in conditioners.items():
        if (truncated := of(ConditionerAnswers, conditioner).truncated) is None:
            continue
        for prompt in dict.fromkeys(prompts):
            if cut := truncated(prompt):
                lines.append(f"the prompt is longer than conditioner '{name}' takes; cut off: '{cut}'")
    return lines


def omissions(conditioners: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the parts that conditioners leave out of their inputs, a line for each."""
    lines = []
    for name, conditioner in conditioners.items():
        if (omitted := of(ConditionerAnswers, conditioner).omitted) is not None:
            lines += [f"conditioner '{name}' leaves out {part}" for row in rows if (part := omitted(row))]
    return list(dict.fromkeys(lines))


def in_words(row: Mapping[str, Any]) -> str:
    """Write a negative row for a picture's metadata: the caption by itself, all else as JSON, arrays by shape."""
    if set(row) == {"caption"}:
        return str(row["caption"])
    row = {k: v.item() if isinstance(v, np.generic | np.ndarray) and np.ndim(v) == 0 else v for k, v in row.items()}
    plain = {k: v if isinstance(v, str | int | float) else f"array of shape {np.shape(v)}" for k, v in row.items()}
    return json.dumps(plain, ensure_ascii=False)


def as_data(value: Any, key: str = "") -> Any:
    """Make arrays of lists of numbers, as a data set gives them; boxes keep the precision of their numbers, since a
    corner may lie on the middle of two cells."""
    if isinstance(value, list | tuple) and value and not isinstance(value[0], str):
        array = np.asarray(value)
        if array.dtype == np.float64 and key != "boxes":
            return array.astype(np.float32)
        return array if array.dtype != object else value
    return value
