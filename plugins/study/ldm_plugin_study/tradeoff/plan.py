"""The plan of a trade-off study: its cells, budgets and measures, and each cell's recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.options import RecipeOptions
from ldm_core.config.overrides import apply_overrides
from ldm_core.contracts import EMPTY
from ldm_core.errors import ConfigError, clean, suggest
from ldm_core.recipe import keys, shipped

PIXELS = "f1"
"""The cell without a first stage."""
OWN = {
    "trainer.steps": "give `steps` or `minutes` (of efficiency: `epochs`)",
    "trainer.schedule": "it is constant here",
    "first_stage_trainer.steps": "give `stage_steps`",
    "first_stage": "give `cells` or `first_stage`",
    "denoiser.channels": "give `parameters`",
}
"""Settings in the hands of the study itself, and what to do in their place."""
OF_MEASURES = ("against", "pictures", "training")
"""First words of settings for ``evaluate``, beside the names of metrics."""


@attrs.frozen(kw_only=True)
class Plan:
    """The settings of a study. Budgets: `steps` of the denoiser, or `minutes` of its training (0: steps);
    `stage_steps` of a first stage (0: the recipe's). `times` are shares of the budget whose weights are measured."""

    folder: str
    cells: tuple[str, ...]
    recipe: str | None = None
    data: tuple[str, ...] = ()
    cond: tuple[str, ...] = ()
    seed: int | None = None
    settings: tuple[str, ...] = ()
    """The recipe's."""
    stages: Mapping[str, str] = EMPTY
    """Trained first stages, by cell."""
    parameters: int = 0
    """Wanted in every denoiser; 0: as many as in the recipe's, in the first cell."""
    steps: int = 0
    minutes: float = 0.0
    stage_steps: int = 0
    times: tuple[float, ...] = (1.0,)
    sample_steps: tuple[int, ...] = (50,)
    metrics: str = ""
    value: str = ""
    reconstruction: str = ""
    images: int = 1000
    against: str = ""
    bootstrap: int = 0
    measures: tuple[str, ...] = ()
    """Settings of ``evaluate``."""

    def place(self, cell: str, *names: str) -> str:
        """A place in the folder of a cell."""
        return storage.join(self.folder, "cells", cell, *names)


def cells_of(text: str, stages: Mapping[str, str], catalog: Catalog) -> tuple[str, ...]:
    """Read ``f1,kl_f4`` as cells: names of first stages, of given ones, or ``f1`` for pixels; ConfigError for others
    and for a given one without a cell."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    known = [PIXELS, *catalog.names("first_stage"), *stages]
    problems = [
        f"cells: no first stage named '{clean(name, 40)}'{suggest(name, known)} (a cell is {PIXELS}, a first stage "
        "such as kl_f4, or the name of a trained one, NAME=RUN)"
        for name in names
        if name not in known
    ]
    if PIXELS in stages:
        problems.append(f"first_stage: {PIXELS} is the cell without one; give the trained one another name")
    problems += [
        f"first_stage: '{clean(name, 40)}' is none of the cells; add it to `cells`"
        for name in stages
        if name not in names
    ]
    if problems or not names:
        raise ConfigError(problems or ["cells: none; give some, such as f1,kl_f4,vq_f4"])
    return names


def stages_of(texts: Sequence[str]) -> dict[str, str]:
    """Read ``kl_f4=runs/kl`` as trained first stages by cell."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, run = text.partition("=")
        if not equals or not name.strip() or not run.strip() or "/" in name:
            raise ConfigError(f"first_stage: '{clean(text, 60)}': expected CELL=RUN such as kl_f4=runs/kl")
        found[name.strip()] = run.strip()
    return found


def shares_of(text: str) -> tuple[float, ...]:
    """Read ``0.25,0.5,1`` as shares of the budget, in their order."""
    try:
        found = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = []
    if not found or not all(0 < share <= 1 for share in found):
        raise ConfigError(f"times: '{clean(text, 40)}': expected shares of the budget, above 0 and up to 1: 0.25,0.5,1")
    return tuple(found)


def divided(settings: Sequence[str], metrics: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settings of the recipe, and those of ``evaluate`` with these `metrics`; ConfigError for the study's own ones."""
    words = {*OF_MEASURES, *(name.strip().partition(":")[0] for name in metrics.split(","))}
    recipe = [line for line in settings if line.partition("=")[0].partition(".")[0].strip() not in words]
    for line in recipe:
        if (key := line.partition("=")[0].strip()) in OWN:
            raise ConfigError(f"{key}: is set by the study itself; {OWN[key]}")
    return tuple(recipe), tuple(line for line in settings if line not in recipe)


def recipe_of(plan: Plan, cell: str, catalog: Catalog, denoiser: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The plain values of a cell's recipe, with a `denoiser` in the place of the recipe's; no steps yet."""
    of_stage = [line for line in plan.settings if line.startswith("first_stage.")]
    request = RecipeOptions(
        recipe=plan.recipe,
        data=plan.data,
        cond=plan.cond,
        seed=plan.seed,
        settings=tuple(line for line in plan.settings if line not in of_stage),
    )
    plain = assemble(request, catalog).plain
    stage: Any = "identity" if cell == PIXELS else cell
    if cell in plan.stages:
        stage = plan.stages[cell] if "/" in plan.stages[cell] else f"./{plan.stages[cell]}"
    elif plan.recipe is None:
        plain = shipped.suited(plain, stage, catalog)
    plain["first_stage"] = stage
    if stage == "identity":
        plain.pop(keys.OBJECTIVE, None)
    elif cell not in plan.stages:
        if f"{cell}_noattn" in plan.cells:  # `scale: small` leaves attention out, and the two would be one
            plain["first_stage"] = {"use": cell, "mid_attention": True}
        apply_overrides(plain, of_stage, keys.SINGLE)
    if plan.stage_steps:
        plain["first_stage_trainer"] = {**plain.get("first_stage_trainer", {}), "steps": plan.stage_steps}
    trainer = {k: v for k, v in plain.get("trainer", {}).items() if k not in ("decay_end", "final_lr")}
    plain |= {"trainer": {**trainer, "schedule": "constant"}, "observers": []}
    return plain if denoiser is None else plain | {"denoiser": dict(denoiser)}
