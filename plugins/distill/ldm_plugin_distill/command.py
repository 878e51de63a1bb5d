"""``ldm-run distil RUN``: a model of few steps, from a trained one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core.cli import argument, command, option, together
from ldm_core.cli.options import LaunchOptions, force_option, json_option, quiet_option, settings_argument

if TYPE_CHECKING:
    from ldm_core.cli.run import Prepared


@attrs.frozen(kw_only=True)
class DistilOptions:
    """A trained run, the student's steps, the method, and the student's folder."""

    run: str = argument("RUN", "Folder of a trained run, the teacher.", completes="folder")
    settings: tuple[str, ...] = settings_argument()
    steps: int = option(4, "Steps of the student's sampler.", metavar="N", minimum=1, group="Student")
    method: Literal["consistency", "progressive", "adversarial"] = option(
        "consistency", "How it learns: from 50 levels at once, or by halvings from 8 N steps.", group="Student"
    )
    rank: int | None = option(
        None,
        "Train a low-rank change of the weights alone, a small file.",
        metavar="R",
        minimum=1,
        group="Student",
        otherwise="all weights",
    )
    train_steps: int | None = option(
        None, "Steps of the training.", metavar="N", minimum=1, group="Student", otherwise="a quarter of the teacher's"
    )
    out: str | None = option(
        None,
        "Folder of the student's run.",
        metavar="URL",
        group="Run",
        otherwise="runs/, with a name from the recipe",
        completes="folder",
    )
    launch: LaunchOptions = together(LaunchOptions, "Run")
    force: bool = force_option("Overwrite files in --out that the run did not write, where it uses their names.", "Run")
    json: bool = json_option()
    quiet: bool = quiet_option()


@command(
    DistilOptions,
    examples=[
        "ldm-run distil runs/demo --steps 4 --out runs/demo4",
        "ldm-run distil runs/demo --method progressive --steps 8 objective.scale=3",
        "ldm-run distil runs/demo --rank 4 objective.scale='[2,8]'",
    ],
    epilog="Settings are those of the student's recipe, which is its teacher's but for the objective, the sampler and "
    "the training: objective.scale, trainer.lr, data.flip. See `ldm-run show consistency` and `progressive`.",
)
def distil(options: DistilOptions) -> int:
    """Train a model that samples in few steps and without guidance as RUN does in many, from RUN's weights and encoded
    images. Its folder is a run like any other: the same command goes on, `ldm-run sample` and `evaluate` take it."""
    from ldm_core.cli.options import RunOptions
    from ldm_core.cli.run import run_prepared

    shared = {name: getattr(options, name) for name in ("out", "launch", "force", "json", "quiet")}
    return run_prepared(RunOptions(**shared), lambda: _prepared(options))


def _prepared(options: DistilOptions) -> Prepared:
    from ldm_core.cli.catalog import installed
    from ldm_core.cli.flags import in_flags
    from ldm_core.cli.run import Prepared
    from ldm_core.recipe.check import remarks
    from ldm_core.training import workflow
    from ldm_plugin_distill.recipe import student, with_latents

    catalog, length = installed(), options.train_steps
    changes: dict[str, Any] = {} if length is None else {"trainer": {"steps": length}}
    made = student(
        options.run, *options.settings, steps=options.steps, method=options.method, rank=options.rank, **changes
    )
    recipe, info = workflow.prepare(made.values(), catalog)
    recipe = with_latents(recipe, catalog, options.run)
    notes = tuple(map(in_flags, remarks(recipe)))
    return Prepared(catalog, recipe, info, None, notes)
