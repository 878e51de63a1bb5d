"""A first look at the data: a few examples, spread over it, with all inputs of a recipe's parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo, DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.sizes import paired
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad
from ldm_core.errors import ConfigError, DataError, clean
from ldm_core.model.parts import data_info, held_out_data
from ldm_core.recipe.check import class_misfits
from ldm_core.recipe.recipe import Recipe

_LOOKED_AT = 8
_AT_MOST = 64  # examples searched for a readable one, if the first few are not


def look(dataset: Any, recipe: Recipe, what: str = "data") -> None:
    """DataError if none of the examples looked at can be read, or if more cannot than may at all.

    Data made at its reading has nothing to look at: it says no share of bad examples (`max_bad`).
    """
    answers = of(DatasetAnswers, dataset)
    limit, reduced = answers.max_bad, answers.reduced
    if limit is None:
        return
    view = dataset if reduced is None else reduced([recipe.image_size], recipe.data.fit, 1.0)
    for section in _sections(view):
        count, bad = 0, dict[str, str]()
        for count, index in enumerate(_spread(section), 1):
            try:
                _ = view[index]
            except BadExample as error:
                bad[error.name] = error.why
            if count >= _LOOKED_AT and len(bad) < count:
                break
        if bad and len(bad) == count:
            few = "; ".join(f"{clean(name, 200)}: {clean(why)}" for name, why in list(bad.items())[:2])
            raise DataError(f"{what}: none of the {count} examples that were looked at can be read ({few})")
        try:
            SkipBad(view, limit).add(bad)
        except TooManyBad as error:
            raise TooManyBad(f"{what}: {error}", error.bad) from error


def look_at_held_out(recipe: Recipe, catalog: Catalog, info: DataInfo) -> None:
    """The same of held-out data, if there is some; DataError if it is damaged, ConfigError if it has classes unknown
    to the model."""
    dataset = held_out_data(recipe, catalog, info)
    if dataset is None:
        return
    if problems := list(class_misfits(recipe, data_info(dataset))):
        raise ConfigError([f"held-out data: {problem}" for problem in problems])
    try:
        view = paired(dataset, recipe.asked(dataset.keys))
    except DataError:  # some lack an annotation: said at their use
        view = dataset.select(["image"])
    look(view, recipe, "held-out data")


def _sections(view: Any) -> Iterator[range]:
    """The indices of each data set of a mixture, or all."""
    first = 0
    for section in of(DatasetAnswers, view).sections:
        yield range(first, first + section.length)
        first += section.length
    if not first:
        yield range(len(view))


def _spread(indices: Sequence[int]) -> Iterator[int]:
    """A few of the indices, the first and the last among them, then more between, each once."""
    seen: set[int] = set()
    for count in (_LOOKED_AT, _AT_MOST):
        most = min(count, len(indices))
        for n in range(most):
            index = indices[n * (len(indices) - 1) // max(1, most - 1)]
            if index not in seen:
                seen.add(index)
                yield index
