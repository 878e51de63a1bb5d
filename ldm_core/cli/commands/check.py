"""``ldm-run check``: the resolved recipe and a verdict, or everything that is wrong with it. Imports no torch, unless
it counts parameters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from ldm_core.cli.declaration import command, option
from ldm_core.cli.options import SETTINGS, RunOptions

if TYPE_CHECKING:
    from ldm_core.cli.run import Prepared


@attrs.frozen(kw_only=True)
class CheckOptions(RunOptions):
    """The options of ``check``."""

    count: bool = option(False, "Count the networks' parameters; done on a terminal.", group="General")


@command(
    CheckOptions,
    examples=[
        "ldm-run check --recipe ldm4_cin --data imagenet/",
        "ldm-run check --cond text trainer.steps=20000 > recipe.yaml",
    ],
    epilog=SETTINGS,
)
def check(options: CheckOptions) -> int:
    """Check that the parts of a recipe fit together and that the data has what they read. Prints the recipe with
    every setting on stdout, and then the verdict on stderr. Takes the options of `ldm-run` itself; exit code 2 and a
    line for each problem."""
    from ldm_core.cli.output import print_yaml, reporting, say
    from ldm_core.cli.run import prepare
    from ldm_core.launch import threads
    from ldm_core.recipe.continuation import default_out

    with reporting(options.json) as document:
        prepared = prepare(options)
        plain = prepared.recipe.plain()
        notes = [*prepared.notes, *([f"data: {prepared.info.remarks}"] if prepared.info.remarks else [])]
        notes += filter(None, [threads.remark(always=True)])
        out = options.out or default_out(prepared.recipe)
        counted = options.count or (sys.stderr.isatty() and not options.quiet and not options.json)
        if not options.json:
            print_yaml(plain)
            sys.stdout.flush()  # the verdict comes last where both are one terminal
        sizes = _counted(prepared) if counted else None
        said = _verdict(prepared, out, sizes)
        document.update(status="ok", recipe=plain, identity=prepared.recipe.identity(), out=out, notes=notes)
        document.update(verdict=said, parameters=sizes or {})
        if not options.quiet:
            for note in (*notes, *(said.values() if not options.json else ())):
                say(note, err=True, wrap=True)
    return 0


def _counted(prepared: Prepared) -> Mapping[str, int]:
    from ldm_core.model.build import count_parameters

    return count_parameters(prepared.recipe, prepared.catalog)


def _verdict(prepared: Prepared, out: str, counted: Mapping[str, int] | None) -> dict[str, str]:
    """The lines at the end: what is fine, what is made of what, how large it is, what a run would do. Sizes that were
    not `counted` are None; of networks that need memory to be made there are none."""
    recipe, sizes = prepared.recipe, counted or {}
    reads = ", ".join(dict.fromkeys(key for part in recipe.conditioners for key in part.config.reads))
    height, width = recipe.image_size
    shape = "x".join(map(str, recipe.first_stage.config.latent.shape(recipe.image_size)))
    conditions = " and ".join(part.use for part in recipe.conditioners)
    whole = sum(sizes.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in sizes.items() if count)
    first, then = recipe.first_stage_trainer, recipe.trainer
    stage = f"{first.steps:,} steps of {first.images_per_step} images for the first stage"
    if recipe.first_stage.weights:
        stage = f"first stage of {recipe.first_stage.weights}"
    elif not sizes.get("first stage"):
        stage = "a first stage without weights" if whole else f"{stage} (none for one without weights)"
    return {
        "fine": f"fine: the parts fit together, and the data has what they read{f' ({reads})' if reads else ''}",
        "model": f"model: pictures of {height}x{width}, {recipe.first_stage.use}, latents of {shape}, "
        f"{recipe.denoiser.use}{f' with {conditions}' if conditions else ''}, {recipe.sampler.use} in "
        f"{recipe.sample.steps} steps",
        "size": f"size: {whole:,} parameters, {4 * whole / 1e6:,.1f} MB as float32 ({parts})"
        if whole
        else "size: not counted; --count does, and imports torch"
        if counted is None
        else "size: not counted, as a part needs memory to be made",
        "run": f"run: {stage}, then {then.steps:,} steps of {then.images_per_step} for the denoiser; into {out}",
    }
