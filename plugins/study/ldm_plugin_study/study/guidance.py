"""``ldm-run study guidance``: quality and speed over scales, steps, samplers and intervals of guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ldm_core.cli import argument, command, option
from ldm_core.cli.options import device_option, json_option, quiet_option

if TYPE_CHECKING:
    from ldm_plugin_study.bench.measure import Measured
    from ldm_plugin_study.study.cells import Cell
    from ldm_plugin_study.study.quality import Figure, Question
    from ldm_plugin_study.study.writing import Study

Tell: TypeAlias = Callable[[str], None]


@attrs.frozen(kw_only=True)
class GuidanceOptions:
    """A trained run, the settings to combine, and the measure of quality."""

    run: str = argument("RUN", "Folder of a trained run.", completes="folder")
    settings: tuple[str, ...] = argument(
        "[KEY=VALUE]...", "Settings of metrics, data and sampling, as `ldm-run evaluate` takes them.", default=()
    )
    scales: tuple[str, ...] = option(
        ("1,1.5,2,3,5",), "Scales of guidance.", metavar="N,N", group="Cells", otherwise="1,1.5,2,3,5"
    )
    steps: tuple[str, ...] = option(("5,10,20",), "Steps.", metavar="N,N", group="Cells", otherwise="5,10,20")
    sampler: tuple[str, ...] = option(
        (), "A sampler; repeat for several.", metavar="NAME", group="Cells", otherwise="the run's", completes="sampler"
    )
    interval: tuple[str, ...] = option(
        ("always",), "Noise levels under guidance, or 'always'; repeat for several.", metavar="LOW,HIGH",
        group="Cells", otherwise="always",
    )  # fmt: skip
    metrics: str = option(
        None,
        "Metrics, with commas between them.",
        metavar="NAME,NAME",
        group="Quality",
        required=True,
        completes="metric",
    )
    value: str = option("", "The value of the metrics that counts.", metavar="NAME", group="Quality",
                        otherwise="the first")  # fmt: skip
    images: int = option(1000, "Samples of a cell.", metavar="N", minimum=1, group="Quality")
    against: str = option("", "Pictures to compare with, as `ldm-run evaluate` takes them.", metavar="DATA",
                          group="Quality", otherwise="the run's held-out ones", completes="dataset")  # fmt: skip
    bootstrap: int = option(0, "Resample N times, for intervals of 95 %.", metavar="N", minimum=0, group="Quality",
                            otherwise="none")  # fmt: skip
    batch: int = option(8, "Images of a timed sampling.", metavar="N", minimum=1, group="Speed")
    rounds: int = option(3, "Rounds of all cells.", metavar="N", minimum=1, group="Speed")
    cpu_time: bool = option(False, "Processor time of one thread, for a busy machine; not for a GPU.", group="Speed")
    time: tuple[float, ...] = option(
        (), "Seconds an image to name the best setting for; repeat for several.", metavar="S", above=0,
        group="Speed", otherwise="those of the front",
    )  # fmt: skip
    out: str = option(
        "", "Folder of the study.", metavar="FOLDER", group="Output", otherwise="study-guidance in the run's folder"
    )
    device: str | None = device_option("Output")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    GuidanceOptions,
    examples=[
        "ldm-run study guidance runs/demo --metrics kid --images 1000 kid.network=tf_efficientnet_lite0",
        "ldm-run study guidance runs/demo --metrics kid --scales 1,2,4 --interval always --interval 0.3,5",
    ],
)
def guidance(options: GuidanceOptions) -> int:
    """Measure quality and images a second over scale x steps x sampler x interval of guidance, of a trained run, and
    name the best setting for a time. Cells that are done are kept: the same command goes on, and one with more
    settings adds to them. Writes guidance.csv, .md, .json, .png and .svg."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, warnings_as_lines
    from ldm_plugin_study.study import files, writing

    with reporting(options.json) as told, warnings_as_lines(most=2):
        folder = options.out or storage.join(options.run, "study-guidance")
        made = _study(options, folder)
        urls = writing.write(made, folder)
        files.finish(told, made.plain(), writing.lines(made), urls, as_json=options.json)
    return 0


def _study(options: GuidanceOptions, folder: str) -> Study:
    from ldm_core import storage
    from ldm_core.cli.output import say
    from ldm_core.errors import ConfigError
    from ldm_core.model.fill import device_named
    from ldm_plugin_study.bench.measure import threads
    from ldm_plugin_study.bench.source import source
    from ldm_plugin_study.study.cells import Result, with_front
    from ldm_plugin_study.study.writing import Study

    tell: Tell = (lambda line: None) if options.quiet else (lambda line: say(f"study: {line}", err=True))
    device = device_named(options.device)
    timing = threads(device, None, cpu_time=options.cpu_time)
    what = source(options.run, (), (), device, options.batch)
    if not what.weights:
        raise ConfigError(f"{storage.shown(options.run)}: its model is not trained to its end; go on with it first")
    cells = _cells(options, what)
    figures = _figures(_question(options), cells, folder, tell)
    with timing:
        taken, machine = _seconds(options, what, cells, tell)
    results = [
        Result(cell=cell, quality=f.value, low=f.low, high=f.high, seconds=taken[cell], images=options.images)
        for cell, f in figures.items()
    ]
    ordered = tuple(with_front(results, higher=figures[cells[0]].higher))
    fastest = figures[ordered[0].cell]
    return Study(run=options.run, results=ordered, figure=fastest, machine=machine, times=options.time)


def _figures(question: Question, cells: Sequence[Cell], folder: str, tell: Tell) -> dict[Cell, Figure]:
    """The quality of every cell, of those done before from their records."""
    from ldm_core import storage
    from ldm_plugin_study.study import quality

    places = {cell: storage.join(folder, "cells", cell.name) for cell in cells}
    left = [cell for cell in cells if not quality.finished(question, cell, places[cell])]
    tell(f"{len(cells)} cells, {len(cells) - len(left)} of them done before")
    for number, cell in enumerate(left):
        tell(f"quality of {cell.name}, {number + 1} of {len(left)}")
        quality.evaluate(question, cell, places[cell])
    return {cell: quality.figure(question, places[cell]) for cell in cells}


def _seconds(
    options: GuidanceOptions, what: Measured, cells: Sequence[Cell], tell: Tell
) -> tuple[Mapping[Cell, tuple[float, ...]], str]:
    """The seconds an image of every cell, and the machine in words."""
    from ldm_plugin_study.bench.result.choice import Choice
    from ldm_plugin_study.bench.result.machine import machine
    from ldm_plugin_study.bench.result.table import machine_in_words
    from ldm_plugin_study.study import speed

    choice = Choice(rounds=options.rounds, least=0.0, clock="processor" if options.cpu_time else "wall")
    taken = speed.seconds(what, cells, choice, tell)
    return taken, f"{machine_in_words(machine(what.device))}, {choice.clock} time"


def _cells(options: GuidanceOptions, what: Measured) -> list[Cell]:
    """The cells; :class:`ConfigError` for settings that the run's guidance has not."""
    from ldm_core.sampling.settings import with_settings
    from ldm_plugin_study.study.cells import grid, scales_of, steps_of

    samplers = options.sampler or (what.recipe.sampler.use,)
    cells = grid(samplers, steps_of(options.steps), scales_of(options.scales), options.interval)
    for cell in cells:
        with_settings(what.recipe, cell.settings, what.catalog)
    return cells


def _question(options: GuidanceOptions) -> Question:
    from ldm_core import storage
    from ldm_core.recipe import artifacts
    from ldm_plugin_study.study.quality import Question

    more = ["--against", options.against] if options.against else []
    more += ["--bootstrap", str(options.bootstrap)] if options.bootstrap else []
    more += ["--device", options.device] if options.device else []
    return Question(
        run=options.run,
        metrics=options.metrics,
        value=options.value,
        images=options.images,
        more=tuple(more),
        settings=options.settings,
        weights=artifacts.sha256(storage.join(options.run, artifacts.MODEL_FILE)),
    )
