"""``ldm-run study efficiency``: speed, memory and quality of first stages after equal epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ldm_core.cli import argument, command, option, together
from ldm_core.cli.options import json_option, quiet_option
from ldm_plugin_study.tradeoff.command import MeasureOptions, ModelOptions, RunOptions, StageOptions

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog
    from ldm_plugin_study.tradeoff.plan import Plan
    from ldm_plugin_study.tradeoff.work import Tell


@attrs.frozen(kw_only=True)
class EpochOptions:
    """The first stages, and their common budget."""

    cells: str = option(
        "f1,kl_f4,vq_f4,vq_f4_noattn", "First stages, and f1 for pixels.", metavar="NAME,NAME",
        otherwise="f1,kl_f4,vq_f4,vq_f4_noattn",
    )  # fmt: skip
    epochs: float = option(6.0, "Epochs of every denoiser's training.", metavar="N", above=0)
    sample_steps: int = option(100, "Steps of the sampler.", metavar="N", minimum=1)


@attrs.frozen(kw_only=True)
class EfficiencyOptions:
    """First stages to compare, their common denoiser and epochs, and the measure of quality."""

    settings: tuple[str, ...] = argument(
        "[KEY=VALUE]...", "Settings of the recipe, of metrics and of data (kid.subsets=50, against.split=val).",
        default=(),
    )  # fmt: skip
    of_cells: EpochOptions = together(EpochOptions, "Cells")
    of_stages: StageOptions = together(StageOptions, "Cells")
    of_model: ModelOptions = together(ModelOptions, "Model")
    of_measure: MeasureOptions = together(MeasureOptions, "Quality and speed")
    of_run: RunOptions = together(RunOptions, "Run")
    out: str = option("study-efficiency", "Folder of the study.", metavar="FOLDER", group="Output", completes="folder")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    EfficiencyOptions,
    examples=[
        "ldm-run study efficiency --metrics kid --epochs 6 kid.network=tf_efficientnet_lite0",
        "ldm-run study efficiency --cells f1,vq_f4 --first-stage vq_f4=runs/vq --metrics kid --devices cuda:0,cuda:1",
    ],
)
def efficiency(options: EfficiencyOptions) -> int:
    """Compare first stages by images a second in training and sampling, memory of decoding, and quality after equal
    epochs, with denoisers of equal parameters (within 3 %). What is done is kept: the same command goes on, in a
    training too. Writes efficiency.csv, .md, .json, .png and .svg."""
    from ldm_core.cli.catalog import installed
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_plugin_study.study import files
    from ldm_plugin_study.tradeoff import bars, run

    tell: Tell = (lambda line: None) if options.quiet else (lambda line: say(f"study: {line}", err=True))
    with reporting(options.json) as told, warnings_as_lines(most=2):
        devices, catalog = options.of_run.places(), installed()
        plan = _plan(options, catalog)
        plan = attrs.evolve(plan, steps=run.steps_of(plan, options.of_cells.epochs, catalog))
        batch, rounds = options.of_measure.batch, options.of_measure.rounds
        results = run.run(plan, devices, catalog, tell, batch=batch, rounds=rounds)
        made = bars.Efficiency(
            results=results, epochs=options.of_cells.epochs, memory=run.memories(plan, devices, tell, batch=batch)
        )
        urls = bars.write(made, plan.folder)
        files.finish(told, made.plain(), bars.lines(made), urls, as_json=options.json)
    return 0


def _plan(options: EfficiencyOptions, catalog: Catalog) -> Plan:
    from ldm_plugin_study.tradeoff import plan

    cells, of_stages = options.of_cells, options.of_stages
    stages = plan.stages_of(of_stages.first_stage)
    settings, measures = plan.divided(options.settings, options.of_measure.names)
    return plan.Plan(
        folder=options.out,
        cells=plan.cells_of(cells.cells, stages, catalog),
        **attrs.asdict(options.of_model),
        settings=settings,
        stages=stages,
        parameters=of_stages.parameters or 0,
        stage_steps=of_stages.stage_steps or 0,
        sample_steps=(cells.sample_steps,),
        **options.of_measure.of_plan(),
        measures=measures,
    )
