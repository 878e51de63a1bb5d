"""``ldm-run tune``: settings of sampling for a model, measured and kept in its weights as presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from ldm_core.cli import argument, command, option, together
from ldm_core.cli.options import device_option, json_option, quiet_option

if TYPE_CHECKING:
    from ldm_plugin_study.bench.measure import Measured
    from ldm_plugin_study.study.quality import Question
    from ldm_plugin_study.tune.candidates import Candidate
    from ldm_plugin_study.tune.choice import Tried
    from ldm_plugin_study.tune.measure import Stopwatch
    from ldm_plugin_study.tune.report import Tuning

Tell: TypeAlias = Callable[[str], None]


@attrs.frozen(kw_only=True)
class CandidateOptions:
    """The settings to combine."""

    sampler: tuple[str, ...] = option(
        (), "A sampler; repeat for several.", metavar="NAME", completes="sampler",
        otherwise="the run's, dpm_solver_pp_2m, unipc",
    )  # fmt: skip
    time_grid: tuple[str, ...] = option(
        (), "A time grid; repeat for several.", metavar="NAME", completes="time_grid", otherwise="the run's, karras"
    )
    steps: tuple[str, ...] = option((), "Steps.", metavar="N,N", otherwise="4,6,8,12,20")
    scales: tuple[str, ...] = option((), "Scales of guidance.", metavar="N,N", otherwise="1,1.5,2,3 and the run's")
    interval: tuple[str, ...] = option(
        (), "Noise levels under guidance, or 'always'; repeat for several.", metavar="LOW,HIGH",
        otherwise="always; 0.3,3",
    )  # fmt: skip
    precision: tuple[Literal["fp32", "bf16", "fp16"], ...] = option(
        (), "Arithmetic of the networks; repeat for several.", otherwise="fp32"
    )
    cache: tuple[str, ...] = option(
        (), "A cache of features, deep_cache=INTERVAL, deep_cache=INTERVAL@CENTER with its full steps dense there (0, "
            "the begin, to 1), or first_block_cache=THRESHOLD; repeat for several.",
        metavar="NAME=N", otherwise="none; deep_cache=2, 3 and 3@0; first_block_cache=0.1 and 0.3",
    )  # fmt: skip
    tried: tuple[str, ...] = option(
        (), "One more setting to be tried beside none, adapters=[...] for one; repeat for several.", flags=["--try"],
        metavar="KEY=VALUE",
    )  # fmt: skip
    candidates: int = option(48, "So many of all combinations, drawn by the seed.", metavar="N", minimum=2)
    seed: int = option(0, "Seed of the draw.", metavar="N", minimum=0)


@attrs.frozen(kw_only=True)
class QualityOptions:
    """The measure of quality."""

    metrics: str = option("fd", "Metrics, with commas between them.", metavar="NAME,NAME", completes="metric")
    value: str = option("", "The value of the metrics that counts.", metavar="NAME", otherwise="the first")
    images: int = option(500, "Samples of a candidate in the last rung.", metavar="N", minimum=2)
    rungs: int = option(3, "Rungs; in each a third of the candidates, on three times the samples.", metavar="N",
                        minimum=1, maximum=6)  # fmt: skip
    against: str = option("", "Pictures to compare with, as `ldm-run evaluate` takes them.", metavar="DATA",
                          otherwise="the run's held-out ones", completes="dataset")  # fmt: skip
    reference_images: int | None = option(
        None, "How many of these, evenly spread over them.", metavar="N", minimum=1, otherwise="all"
    )
    bootstrap: int = option(100, "Resample the last rung N times, for intervals of 95 %.", metavar="N", minimum=2)


@attrs.frozen(kw_only=True)
class SpeedOptions:
    """The measure of time."""

    batch: int = option(4, "Images of a timed sampling.", metavar="N", minimum=1)
    rounds: int = option(2, "Timings of all candidates, each beside a quick one; those of the last rung have twice as "
                         "many and one.", metavar="N", minimum=1)  # fmt: skip
    cpu_time: bool = option(False, "Processor time of one thread, for a busy machine; not for a GPU.")


@attrs.frozen(kw_only=True)
class TuneOptions:
    """A trained run, the settings to combine, the measures, and the rule of the presets."""

    run: str = argument("RUN", "Folder of a trained run.", completes="folder")
    settings: tuple[str, ...] = argument(
        "[KEY=VALUE]...", "Settings of metrics and data, as `ldm-run evaluate` takes them.", default=()
    )
    space: CandidateOptions = together(CandidateOptions, "Candidates")
    quality: QualityOptions = together(QualityOptions, "Quality")
    speed: SpeedOptions = together(SpeedOptions, "Speed")
    seconds: float | None = option(
        None, "The presets take at most S seconds a picture.", metavar="S", above=0, group="Presets", otherwise="any"
    )
    within: float = option(
        20.0, "How much worse than the best value the preset fast may be, in percent.", metavar="PERCENT", minimum=0,
        maximum=1000, group="Presets",
    )  # fmt: skip
    no_presets: bool = option(False, "Leave the weights as they are; write the table alone.", group="Presets")
    out: str = option(
        "", "Folder of the tuning.", metavar="FOLDER", group="Output", otherwise="tune in the run's folder"
    )
    device: str | None = device_option("Output")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    TuneOptions,
    examples=[
        "ldm-run tune runs/demo --metrics kid kid.network=tf_efficientnet_lite0",
        "ldm-run tune runs/demo --seconds 0.5 --precision fp32 --precision bf16",
    ],
)
def tune(options: TuneOptions) -> int:
    """Try settings of the sampling on held-out inputs, many on few pictures and the better ones on more, by quality and
    by time a picture, and write the presets fast, balanced and best into the run's weights: `ldm-run sample RUN
    --preset fast` takes one. Finished measurements are kept: the same command goes on. Writes tune.csv, .md, .json,
    .png and .svg."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_plugin_study.study import files
    from ldm_plugin_study.tune import presets, report

    tell: Tell = (lambda line: None) if options.quiet else (lambda line: say(f"tune: {line}", err=True))
    with reporting(options.json) as told, warnings_as_lines(most=2):
        folder = options.out or storage.join(options.run, "tune")
        what = _what(options)
        with nullcontext() if options.no_presets else presets.held(options.run, tell):
            sha256 = _hash(options)
            made = _tuned(options, what, folder, tell)
            urls = report.write(made, folder)
            if not options.no_presets:
                presets.write(options.run, made.presets(), what.catalog, sha256)
                told["presets_in"] = storage.shown(options.run)
        files.finish(told, made.plain(), report.lines(made), urls, as_json=options.json)
    return 0


def _hash(options: TuneOptions) -> str:
    from ldm_core import storage
    from ldm_core.recipe import artifacts

    return artifacts.sha256(storage.join(options.run, artifacts.MODEL_FILE))


def _what(options: TuneOptions) -> Measured:
    from ldm_core import storage
    from ldm_core.errors import ConfigError
    from ldm_core.model.fill import device_named
    from ldm_plugin_study.bench.source import source

    what = source(options.run, (), (), device_named(options.device), options.speed.batch)
    if not what.weights:
        raise ConfigError(f"{storage.shown(options.run)}: its model is not trained to its end; go on with it first")
    return what


def _tuned(options: TuneOptions, what: Measured, folder: str, tell: Tell) -> Tuning:
    """Measure, rung by rung."""
    from ldm_core import storage
    from ldm_plugin_study.bench.measure import threads
    from ldm_plugin_study.tune import halving
    from ldm_plugin_study.tune.choice import Rule, choose
    from ldm_plugin_study.tune.measure import few
    from ldm_plugin_study.tune.report import Tuning

    rule = Rule(within=options.within / 100, seconds=options.seconds)
    question, kept = _question(options), storage.join(folder, "candidates")
    timing = partial(threads, what.device, None, cpu_time=options.speed.cpu_time)
    left = _candidates(options, what)
    watch, machine = _watch(options, what, left, kept)
    _with_own(question, options, left[0], kept, tell)
    with timing():
        left = _fast_enough(_timed(watch, left, options.speed.rounds, tell), rule, tell)
    rungs: list[tuple[Tried, ...]] = []
    plan = halving.schedule(len(left), options.quality.images, options.quality.rungs)
    for number, (_, images) in enumerate(plan):
        last = number == len(plan) - 1
        with timing() if last else nullcontext():
            timed = _timed(watch, left, options.speed.rounds * (2 if last else 1) + last, tell)
        asked = _last(question, options) if last else few(attrs.evolve(question, images=images), what.catalog)
        tried = _figures(asked, timed, kept, tell)
        rungs.append(tuple(tried))
        if not last:
            higher = tried[0].figures[0].higher
            some = halving.survivors(tried[1:], plan[number + 1][0] - 1, higher=higher)
            going = {tried[0].candidate, *(t.candidate for t in some)}  # the model's own settings always go on
            left = [t.candidate for t in tried if t.candidate in going]
    chosen = choose(rungs[-1], rule)
    return Tuning(run=options.run, rungs=tuple(rungs), chosen=chosen, rule=rule, machine=machine, batch=what.batch)


def _with_own(question: Question, options: TuneOptions, own: Candidate, kept: str, tell: Tell) -> None:
    """Measure the model's own settings as in the last rung: a mistake in the metrics is said now, and not there."""
    from ldm_plugin_study.tune.measure import measured

    measured(_last(question, options), [own], kept, tell)


def _last(question: Question, options: TuneOptions) -> Question:
    """The question of the last rung."""
    more = ("--bootstrap", str(options.quality.bootstrap))
    return attrs.evolve(question, images=options.quality.images, more=(*question.more, *more))


def _candidates(options: TuneOptions, what: Measured) -> list[Candidate]:
    from ldm_plugin_study.bench.measure import keeps_features
    from ldm_plugin_study.study.cells import interval_of, scales_of, steps_of
    from ldm_plugin_study.tune import caches
    from ldm_plugin_study.tune.candidates import Space, candidates

    given = options.space
    known = what.catalog.names("adapter")
    usual = [each for each in caches.USUAL if each is None or (each.use in known and keeps_features(what))]
    space = Space(
        samplers=given.sampler,
        time_grids=given.time_grid,
        steps=steps_of(given.steps) if given.steps else (),
        scales=scales_of(given.scales) if given.scales else (),
        intervals=[interval_of(text) for text in given.interval],
        more=given.tried,
        precisions=given.precision,
        caches=[*map(caches.cache_of, given.cache)],
        usual=usual,
        count=given.candidates,
        seed=given.seed,
    )
    return candidates(what.recipe, space, what.catalog)


def _question(options: TuneOptions) -> Question:
    from ldm_plugin_study.study.quality import Question

    asked = options.quality
    more = ["--against", asked.against] if asked.against else []
    more += ["--reference-images", str(asked.reference_images)] if asked.reference_images else []
    more += ["--device", options.device] if options.device else []
    return Question(
        run=options.run,
        metrics=asked.metrics,
        value=asked.value,
        more=tuple(more),
        settings=options.settings,
        weights=_hash(options),
    )


def _watch(options: TuneOptions, what: Measured, tried: Sequence[Candidate], kept: str) -> tuple[Stopwatch, str]:
    """The stopwatch, with the own settings at few steps as its reference, and the machine in words."""
    from ldm_plugin_study.bench.gauge.rounds import Clock
    from ldm_plugin_study.bench.result.machine import machine
    from ldm_plugin_study.bench.result.table import machine_in_words
    from ldm_plugin_study.tune.measure import Stopwatch

    kind = "processor" if options.speed.cpu_time else "wall"
    reference = attrs.evolve(tried[0], steps=min(each.steps for each in tried))
    said = f"{machine_in_words(machine(what.device))}, {kind} time"
    known = {"weights": _hash(options), "machine": said, "batch": what.batch, "reference": reference.name}
    return Stopwatch(what, Clock(what.device, kind), reference, kept, known), said


def _timed(watch: Stopwatch, left: Sequence[Candidate], rounds: int, tell: Tell) -> list[Tried]:
    from ldm_plugin_study.tune.choice import Tried
    from ldm_plugin_study.tune.measure import in_units

    ratios, unit = in_units(watch.pairs(left, rounds, tell))
    return [Tried(candidate=each, figures=(), images=0, ratios=ratios[each], unit=unit) for each in left]


def _fast_enough(timed: Sequence[Tried], rule: object, tell: Tell) -> list[Candidate]:
    """The candidates within the rule's seconds; ConfigError for none. The model's own settings stay in any case, for
    comparison."""
    from ldm_plugin_study.tune.choice import Rule, too_slow

    assert isinstance(rule, Rule)
    if rule.seconds is None:
        return [t.candidate for t in timed]
    fast = [t.candidate for t in timed if t.span[0] <= rule.seconds]
    if not fast:
        raise too_slow(timed, rule)
    tell(f"{len(timed) - len(fast)} candidates are slower than {rule.seconds:g} s a picture, and left out")
    return list(dict.fromkeys([timed[0].candidate, *fast]))


def _figures(question: Question, timed: Sequence[Tried], kept: str, tell: Tell) -> list[Tried]:
    """The timed candidates with their figures."""
    from ldm_plugin_study.tune.measure import measured

    found = measured(question, [t.candidate for t in timed], kept, tell)
    return [attrs.evolve(t, figures=tuple(found[t.candidate]), images=question.images) for t in timed]
