"""``ldm-run study tradeoff``: quality over training time and sampling speed, by the first stage's factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.cli import argument, command, option, together
from ldm_core.cli.options import json_option, quiet_option

if TYPE_CHECKING:
    from ldm_plugin_study.tradeoff.plan import Plan
    from ldm_plugin_study.tradeoff.work import Tell


@attrs.frozen(kw_only=True)
class CellOptions:
    """The cells of the study, and their common budget."""

    cells: str = option(
        "f1,kl_f2,kl_f4,kl_f8,vq_f4,vq_f8", "First stages, and f1 for pixels.", metavar="NAME,NAME",
        otherwise="f1, and KL and VQ of 2 to 8",
    )  # fmt: skip
    steps: int | None = option(
        None, "Steps of every denoiser's training.", metavar="N", minimum=1, otherwise="the recipe's"
    )
    minutes: float | None = option(
        None, "Minutes of every denoiser's training, in the place of steps.", metavar="N", above=0
    )
    times: str | None = option(
        None, "Shares of the training after which samples are measured.", metavar="N,N", otherwise="0.25,0.5,1"
    )
    sample_steps: str | None = option(None, "Steps of the sampler.", metavar="N,N", otherwise="10,20,50,100")
    quick: bool = option(False, "A short look: 50 steps, half and whole, 5 and 10 steps of the sampler, 64 images.")


@attrs.frozen(kw_only=True)
class StageOptions:
    """The first stages and the size of the denoisers of all cells."""

    first_stage: tuple[str, ...] = option(
        (), "A cell's trained first stage; repeat for several.", metavar="CELL=RUN", otherwise="trained here"
    )
    parameters: int | None = option(
        None, "Parameters of every denoiser.", metavar="N", minimum=1, otherwise="the recipe's, in the first cell"
    )
    stage_steps: int | None = option(
        None, "Steps of every first stage's training.", metavar="N", minimum=1, otherwise="the recipe's"
    )


@attrs.frozen(kw_only=True)
class ModelOptions:
    """The recipe and data of all cells."""

    recipe: str | None = option(
        None, "Recipe of all cells.", metavar="NAME|URL", otherwise="laptop", completes="recipe"
    )
    data: tuple[str, ...] = option(
        (), "Data by name, folder, tar or URL pattern; repeat to mix.", metavar="NAME|URL", completes="dataset"
    )
    cond: tuple[str, ...] = option((), "Conditioner; repeat for several.", metavar="NAME", completes="conditioner")
    seed: int | None = option(None, "Seed of weights, noise and data order.", metavar="N", minimum=0)


@attrs.frozen(kw_only=True)
class MeasureOptions:
    """The measure of quality, and of speed."""

    metrics: str = option(
        None, "Metrics of samples, with commas between them.", metavar="NAME,NAME", required=True, completes="metric"
    )
    value: str = option("", "The value of the metrics that counts.", metavar="NAME", otherwise="the first")
    reconstruction: str = option(
        "psnr", "Metrics of reconstructions, or none.", metavar="NAME,NAME|none", completes="metric"
    )
    images: int | None = option(None, "Samples of a measurement.", metavar="N", minimum=1, otherwise="1000")
    against: str = option(
        "", "Pictures to compare with, as `ldm-run evaluate` takes them.", metavar="DATA",
        otherwise="the held-out data", completes="dataset",
    )  # fmt: skip
    bootstrap: int = option(0, "Resample N times, for intervals of 95 %.", metavar="N", minimum=0, otherwise="none")
    batch: int = option(8, "Images of a timed sampling.", metavar="N", minimum=1)
    rounds: int = option(3, "Rounds of timed samplings.", metavar="N", minimum=1)

    @property
    def names(self) -> str:
        """All metrics, with commas between them."""
        return f"{self.metrics},{self.reconstruction}"

    def of_plan(self, images: int = 1000) -> dict[str, Any]:
        """The fields of a plan; `images` where none were asked for."""
        return {
            "metrics": self.metrics,
            "value": self.value,
            "reconstruction": "" if self.reconstruction == "none" else self.reconstruction,
            "images": self.images or images,
            "against": self.against,
            "bootstrap": self.bootstrap,
        }


@attrs.frozen(kw_only=True)
class RunOptions:
    """The processes that do the work."""

    jobs: int | None = option(None, "Cells at once, in processes.", metavar="N", minimum=1, maximum=64,
                              otherwise="one, or one a device")  # fmt: skip
    devices: str = option("", "Devices of these processes.", metavar="NAME,NAME", otherwise="a GPU or cpu")

    def places(self) -> list[str]:
        """The devices of the processes, one each; none: this process does all."""
        named = [part.strip() for part in self.devices.split(",") if part.strip()]
        if not named and (self.jobs or 1) == 1:
            return []
        if not named:
            import torch

            named = ["cuda" if torch.cuda.is_available() else "cpu"]
        return [named[number % len(named)] for number in range(self.jobs or len(named))]


@attrs.frozen(kw_only=True)
class TradeoffOptions:
    """First stages to compare, their common denoiser and budget, and the measure of quality."""

    settings: tuple[str, ...] = argument(
        "[KEY=VALUE]...", "Settings of the recipe, of metrics and of data (kid.subsets=50, against.split=val).",
        default=(),
    )  # fmt: skip
    of_cells: CellOptions = together(CellOptions, "Cells")
    of_stages: StageOptions = together(StageOptions, "Cells")
    of_model: ModelOptions = together(ModelOptions, "Model")
    of_measure: MeasureOptions = together(MeasureOptions, "Quality and speed")
    of_run: RunOptions = together(RunOptions, "Run")
    out: str = option("study-tradeoff", "Folder of the study.", metavar="FOLDER", group="Output", completes="folder")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    TradeoffOptions,
    examples=[
        "ldm-run study tradeoff --cells f1,kl_f4,vq_f4 --metrics kid --minutes 10 kid.network=tf_efficientnet_lite0",
        "ldm-run study tradeoff --cells kl_f4,kl_f8 --first-stage kl_f4=runs/kl --metrics kid --devices cuda:0,cuda:1",
    ],
)
def tradeoff(options: TradeoffOptions) -> int:
    """Compare first stages by denoisers of equal parameters (within 3 %) and equal training: quality over training
    time and over sampling speed, reconstruction beside generation. What is done is kept: the same command goes on, in
    a training too. Writes tradeoff.csv, .md, .json, .png and .svg."""
    from ldm_core.cli.catalog import installed
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_plugin_study.study import files
    from ldm_plugin_study.tradeoff import report, run

    tell: Tell = (lambda line: None) if options.quiet else (lambda line: say(f"study: {line}", err=True))
    with reporting(options.json) as told, warnings_as_lines(most=2):
        plan, devices = _plan(options), options.of_run.places()
        batch, rounds = options.of_measure.batch, options.of_measure.rounds
        results = run.run(plan, devices, installed(), tell, batch=batch, rounds=rounds)
        urls = report.write(results, plan.folder)
        files.finish(told, results.plain(), report.lines(results), urls, as_json=options.json)
    return 0


def _plan(options: TradeoffOptions) -> Plan:
    from ldm_core.cli.catalog import installed
    from ldm_core.errors import ConfigError
    from ldm_plugin_study.study.cells import steps_of
    from ldm_plugin_study.tradeoff import plan

    cells, of_stages, measure = options.of_cells, options.of_stages, options.of_measure
    catalog, quick = installed(), cells.quick
    if cells.steps and cells.minutes:
        raise ConfigError("minutes: steps are given too; give one of them")
    stages = plan.stages_of(of_stages.first_stage)
    settings, measures = plan.divided(options.settings, measure.names)
    usual = "5,10" if quick else "10,20,50,100"
    sample_steps = usual if cells.sample_steps is None else cells.sample_steps
    return plan.Plan(
        folder=options.out,
        cells=plan.cells_of(cells.cells, stages, catalog),
        **attrs.asdict(options.of_model),
        settings=settings,
        stages=stages,
        parameters=of_stages.parameters or 0,
        steps=cells.steps or (50 if quick else 0),
        minutes=cells.minutes or 0.0,
        stage_steps=of_stages.stage_steps or (50 if quick else 0),
        times=plan.shares_of(cells.times or ("0.5,1" if quick else "0.25,0.5,1")),
        sample_steps=tuple(sorted(set(steps_of([sample_steps], "sample_steps")))),
        **measure.of_plan(64 if quick else 1000),
        measures=measures,
    )
