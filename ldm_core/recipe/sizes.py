"""Numbers for the size of a part, held to bounds before anything of this size is made. Torch-free.

A config of a few bytes can ask for more memory than there is: a count of 10^9 layers, a width of 2^20. Sizes beyond any
network are refused as they are read, whoever wrote them; :mod:`ldm_core.model.budget` counts the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ldm_core.errors import clean, quoted
from ldm_core.recipe.recipe import Recipe

MOST_PARTS = 64
"""Conditioners, adapters or observers of a recipe."""
BOUNDED = (
    "first_stage", "conditioner", "denoiser", "schedule", "parameterization", "objective", "time_grid", "sampler",
    "guidance", "adapter",
)  # fmt: skip
"""Kinds of parts that make a model; the numbers of others (data, observers) are counts of something else."""
_COUNT = re.compile(r"(^|_)(layers|blocks|depth|heads|levels)$")
_SIZE = re.compile(
    r"(^|_)(layers|blocks|depth|heads|levels|channels|width|widths|inner|size|length|groups|mult|dim|classes|objects)$"
)
_TABLE = re.compile(r"(^|_)(steps|timesteps)$")
_MOST_COUNT = 4096
_MOST_STEPS = 1_000_000
_LONGEST = 10_000
_MOST = 1 << 31
_MOST_ITEMS = 64
_ROWS = re.compile(r"(^|_)(vocab_size|codebook_size|classes|objects)$")
_LARGE = {"count": 128, "rows": 1 << 18, "size": 1 << 14}
"""Bounds of numbers; beyond them the parameters are counted before a run begins; published models have less."""


def misfits(plain: Mapping[str, Any], config: type, path: str) -> Iterator[str]:
    """One line for each number among the plain values of a part's config that no model has.

    Called before the config is made: its own checks may count up to them. A field's metadata may say its own bounds,
    ``least`` and ``most``; without them the name does: counts of layers, blocks and heads go up to 4,096, steps of a
    table to a million, sizes are not negative, a dropout is a share.
    """
    for field in attrs.fields(config):
        value, where = plain.get(field.name), f"{path}.{field.name}"
        if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
            if len(value) > (most := int(field.metadata.get("most_items", _MOST_ITEMS))):
                yield f"{where}: expected at most {most} values, got {len(value):,}"
            else:
                yield from sorted({line for each in value for line in _number(field, where, each)})
        elif isinstance(value, int | float) and _is_number(value):
            yield from _number(field, where, value)
        elif isinstance(value, str) and len(value) > _LONGEST:
            yield f"{where}: is a text of {len(value):,} characters; at most {_LONGEST:,} are read"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(field: attrs.Attribute[Any], where: str, value: float) -> Iterator[str]:
    name = field.name
    least, most = field.metadata.get("least"), field.metadata.get("most")
    if name == "dropout" or name.endswith("_dropout"):
        least, most = (0 if least is None else least), (1 if most is None else most)
    elif isinstance(value, int):
        usual = _MOST_COUNT if _COUNT.search(name) else _MOST_STEPS if _TABLE.search(name) else _MOST
        most = usual if most is None else most
        least = (0 if _SIZE.search(name) else -_MOST) if least is None else least
    if least is not None and value < least:
        yield f"{where}: expected at least {least:,}, got {quoted(value, 40)}"
    if most is not None and value > most:
        yield f"{where}: expected at most {most:,}, got {quoted(value, 40)}"


def image_misfits(recipe: Recipe) -> Iterator[str]:
    """One line if a single image of the recipe's size does not fit into this machine's memory."""
    height, width = recipe.image_size
    needed = height * width * recipe.image_channels * 4 * 8  # float32, and any network's intermediates
    if needed > (there := memory()):
        yield (
            f"image_size: [{height}, {width}] takes {needed / 1e9:,.1f} GB for one image, and this machine has "
            f"{there / 1e9:,.1f} GB; choose a smaller one"
        )


def large(recipe: Recipe) -> bool:
    """True if a number of the recipe's networks is beyond published models, so its parameters are to be counted before
    a run begins."""
    for part in (recipe.first_stage, *recipe.conditioners, recipe.denoiser, *recipe.adapters):
        for field in attrs.fields(type(part.config)) if attrs.has(type(part.config)) else ():
            value = getattr(part.config, field.name)
            what = "count" if _COUNT.search(field.name) else "rows" if _ROWS.search(field.name) else "size"
            values = value if isinstance(value, tuple) else (value,)
            if any(isinstance(each, int) and each > _LARGE[what] for each in values) and _SIZE.search(field.name):
                return True
    return False


def memory() -> int:
    """Bytes of memory for this process: the least of the machine's, its control group's and its own limit."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(place).read_text(encoding="ascii")))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(limit)
    return min(found)


def too_many(path: str, count: int) -> str:
    """The line for a list of more parts than any recipe has."""
    return f"{clean(path)}: expected at most {MOST_PARTS} components, got {count:,}"
