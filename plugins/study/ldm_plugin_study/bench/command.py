"""``ldm-run bench``: speed and memory of a model's components on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core.cli import command, option
from ldm_core.cli.options import (
    SETTINGS,
    Given,
    device_option,
    force_option,
    json_option,
    places_and_settings,
    quiet_option,
)

if TYPE_CHECKING:
    from ldm_core.contracts import Precision
    from ldm_plugin_study.bench.measure import Measured
    from ldm_plugin_study.bench.result.choice import Choice
    from ldm_plugin_study.bench.result.comparison import Comparison
    from ldm_plugin_study.bench.result.document import Document

Name = Literal["encode", "decode", "conditions", "forward", "step", "train", "loader", "storage"]


@attrs.frozen(kw_only=True)
class BenchOptions:
    """The model to measure, its components, and the measurement to compare with."""

    given: Given = places_and_settings(
        1,
        "[RUN|RECIPE|FILE] [KEY=VALUE]...",
        "A run's folder, a recipe by name or file, or an earlier measurement; any setting of the recipe.",
    )
    data: tuple[str, ...] = option(
        (), "Other data: by name, folder, tar or URL pattern; repeat to mix.", metavar="NAME|URL", group="Model",
        completes="dataset",
    )  # fmt: skip
    preset: str | None = option(
        None, "A preset of a run's weights: its sampler, guidance, caches, steps.", metavar="NAME", group="Model"
    )
    device: str | None = device_option("Model")
    only: tuple[Name, ...] = option((), "A component to measure; repeat for several.", group="Measurement")
    precision: tuple[Literal["fp32", "bf16", "fp16"], ...] = option(
        (),
        "A precision; repeat for several.",
        group="Measurement",
        otherwise="fp32 and bf16, and fp16 on a GPU",
    )
    batch: int | None = option(
        None, "Images a call.", metavar="N", minimum=1, maximum=4096, group="Measurement",
        otherwise="8; 1 for more than 64 pixels without a GPU",
    )  # fmt: skip
    rounds: int | None = option(
        None, "Rounds of all components.", metavar="N", minimum=1, maximum=1000, group="Measurement", otherwise="7"
    )
    threads: int | None = option(
        None, "Threads of torch.", metavar="N", minimum=1, maximum=4096, group="Measurement", otherwise="its own choice"
    )
    cpu_time: bool = option(
        False, "Processor time of one thread, for a busy machine; not for a GPU.", group="Measurement"
    )
    quick: bool = option(False, "Fewer and shorter rounds.", group="Measurement")
    no_memory: bool = option(False, "Leave the memory out.", group="Measurement")
    against: str | None = option(
        None, "An earlier measurement, to compare with.", metavar="FILE", group="Result", completes="file"
    )
    anyway: bool = option(False, "Compare measurements of other machines, recipes or batches.", group="Result")
    out: str | None = option(None, "Write the measurement as JSON.", metavar="FILE", group="Result", completes="file")
    force: bool = force_option("Overwrite --out.", "Result")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    BenchOptions,
    examples=[
        "ldm-run bench --quick",
        "ldm-run bench ldm4_imagenet --only forward --only decode --precision bf16",
        "ldm-run bench runs/demo --preset fast --only step --against bench.json",
    ],
    epilog=SETTINGS,
)
def bench(options: BenchOptions) -> int:
    """Measure speed and memory of each component of a model on this machine: encode, decode, the conditioners, the
    denoiser forward, a training step's forward and backward, a sampler's step with guidance, the loader, reads of
    storage. Operations are counted, and their rate is set beside the largest rate of matrix products
    measured on this machine at the same precision. Weights of an untrained recipe are drawn; they are as fast."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_plugin_study.bench.result import comparison, document, table

    with reporting(options.json) as told, warnings_as_lines(most=2):
        old = document.read(options.against) if options.against else None
        _require_free(options)
        place = options.given.places[0] if options.given.places else ""
        stored = place.endswith(".json")
        new = _stored(options, place) if stored else _measured(options, place, old)
        found = None if old is None else comparison.compare(old, new, anyway=options.anyway)
        if options.out:
            document.write(new, options.out, force=options.force)
        told.update(status="done", **_told(new, found, options.out))
        if not options.json:
            for line in table.lines(new) if found is None or not stored else []:
                say(line, longest=400)
            for line in ["", *comparison.lines(found)] if found is not None else []:
                say(line, longest=400)
            if options.out:
                say(f"\nwritten to {storage.shown(options.out)}")
    return 0


def _told(new: Document, found: Comparison | None, out: str | None) -> dict[str, Any]:
    compared = {} if found is None else {"comparison": found.plain()}
    return {**new.plain(), **compared, **({"out": out} if out else {})}


def _require_free(options: BenchOptions) -> None:
    """Refuse a file in the way before a long measurement, and not after it."""
    from ldm_plugin_study.bench.result import document

    if options.out and not options.force:
        document.require_free(options.out)


def _stored(options: BenchOptions, place: str) -> Document:
    """A measurement from before; ConfigError for what would change it."""
    from ldm_core import storage
    from ldm_core.errors import ConfigError
    from ldm_plugin_study.bench.result import document

    changes = {
        "data": options.data,
        "preset": options.preset,
        "only": options.only,
        "precision": options.precision,
        "batch": options.batch,
    }
    given = [f"`{name}`" for name, value in changes.items() if value]
    given += [line.partition("=")[0] for line in options.given.settings]
    if given:
        raise ConfigError(
            f"{storage.shown(place)}: is a measurement, and is not measured again; leave out {', '.join(given)}, or "
            "give a run or a recipe in its place"
        )
    return document.read(place)


def _measured(options: BenchOptions, place: str, old: Document | None) -> Document:
    from ldm_core.cli.output import say
    from ldm_core.model.fill import device_named
    from ldm_plugin_study.bench.measure import described, measure, threads
    from ldm_plugin_study.bench.result.comparison import compare
    from ldm_plugin_study.bench.source import source

    device = device_named(options.device)
    with threads(device, options.threads, cpu_time=options.cpu_time):
        what = source(place, options.given.settings, options.data, device, options.batch, options.preset)
        choice = _choice(options, what)
        if old is not None:  # said now, and not after minutes
            compare(old, described(what, choice), anyway=options.anyway)
        tell = (lambda line: None) if options.quiet else (lambda line: say(f"bench: {line}", err=True))
        return measure(what, choice, tell)


def _choice(options: BenchOptions, what: Measured) -> Choice:
    from ldm_plugin_study.bench.result.choice import COMPONENTS, SIZES, Choice, quick

    device = what.device.type
    usual: tuple[Precision, ...] = ("fp32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16")
    if what.precision is not None:
        usual = (what.precision,)
    choice = Choice(
        components=options.only or tuple(COMPONENTS),
        precisions=tuple(dict.fromkeys(options.precision)) or usual,
        sizes=SIZES.get(device, SIZES["cuda"]),
        memory=not options.no_memory,
        clock="processor" if options.cpu_time else "wall",
    )
    choice = quick(choice) if options.quick else choice
    if options.preset:  # a step of a run with a cache is not like the next one: only all of them have its mean
        choice = attrs.evolve(choice, sampler_steps=what.recipe.sample.steps)
    return attrs.evolve(choice, rounds=options.rounds) if options.rounds else choice
