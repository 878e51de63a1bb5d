"""The optional names of configs and parts, by kind, and the search for misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

CLOSE = 0.85
"""The least likeness of a misspelling to the right name; names of first-party parts stay below it."""

CONFIG: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split()) | {"check", "fixed_size"}
    for kind, names in {
        "first_stage": "latent image_channels adversarial_start adversarial_weight discriminator_layers",
        "conditioner": "reads spec from_data taken_sizes pretrained trained_by_default droppable classes tokenizer",
        "denoiser": "accepts dropout",
        "schedule": "table_steps zero_terminal_alpha",
        "parameterization": "needs_terminal_alpha",
        "objective": "needs_table",
        "time_grid": "problem uneven needs_table",
        "sampler": "quantizes conventions eta",
        "guidance": "needs_null conditioners accepts conventions scale scales interval rescale",
        "adapter": "accepts",
        "dataset": "url split",
        "observer": "",
        "codec": "",
    }.items()
}
PART: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "first_stage": "reconstruct last_layer nll_reduction regularization_weight init_codebook revive diagnostics",
        "conditioner": "fit class_tables known truncated omitted",
        "denoiser": "prepare recompute_blocks",
        "schedule": "table_steps",
        "objective": "prepare",
        "dataset": "image_sizes max_bad widths describe lacks sections remarks",
    }.items()
}


def misspelt_config(kind: str, config: type) -> Iterator[str]:
    """A line for each public name of a config class that is almost one of the contract's."""
    yield from _slips(config.__name__, {n for n in dir(config) if not n.startswith("_")}, CONFIG.get(kind, frozenset()))


def misspelt_part(kind: str, part: Any) -> Iterator[str]:
    """A line for each public name of a part, or of its class, that is almost one of the contract's."""
    cls = part if isinstance(part, type) else type(part)
    own = [c for c in cls.__mro__ if not c.__module__.startswith(("torch", "builtins", "typing", "ldm_core.contracts"))]
    names = {n for c in own for n in (*vars(c), *getattr(c, "__annotations__", ()))}
    if part is not cls:
        names |= vars(part).keys() - {"training"}
    yield from _slips(cls.__name__, {n for n in names if not n.startswith("_")}, PART.get(kind, frozenset()))


def _slips(owner: str, names: set[str], known: frozenset[str]) -> Iterator[str]:
    for name in sorted(names - known):
        for near in difflib.get_close_matches(name, known, 1, CLOSE):
            yield f"{owner}.{name} is read by nobody; the contract has '{near}'"
