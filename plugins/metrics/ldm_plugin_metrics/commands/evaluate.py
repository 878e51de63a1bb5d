"""``ldm-run evaluate``: figures of a model or of pictures, with their protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core.cli import command, installed, option, together
from ldm_core.cli.options import Given, LaunchOptions, device_option, json_option, places_and_settings, quiet_option

if TYPE_CHECKING:
    from ldm_core.training.engine.world import World
    from ldm_plugin_metrics.evaluation.request import Request


@attrs.frozen(kw_only=True)
class PicturesOptions:
    """The pictures to measure, and the pictures to compare them with."""

    images: int | None = option(
        None, "How many are measured.", metavar="N", minimum=1, otherwise="5000 samples, or all pictures"
    )
    against: str = option(
        "",
        "Pictures to compare with: data by name, folder or URL, a .npz of statistics, or 'run' for the run's own.",
        metavar="DATA",
        otherwise="the held-out data of the run",
        completes="dataset",
    )
    reference_images: int | None = option(
        None, "How many of these, evenly spread over them.", metavar="N", minimum=1, otherwise="all"
    )
    training: str = option(
        "",
        "The pictures that the model was trained on, for metrics that ask.",
        metavar="DATA",
        otherwise="those of the run",
        completes="dataset",
    )
    image_size: str | None = option(
        None, "Bring pictures to this size first.", metavar="N|H,W", otherwise="the model's, or as they are"
    )
    channels: Literal["1", "3"] | None = option(None, "Grey pictures, or in colour.", otherwise="the model's, or 3")
    fit: Literal["crop", "pad"] = option("crop", "How a picture of another shape is fitted.")
    filter: Literal["bicubic", "bilinear", "lanczos", "box"] = option("bicubic", "Filter of the resize, antialiased.")


@attrs.frozen(kw_only=True)
class SamplingOptions:
    """The samples of a model."""

    preset: str = option(
        "", "Settings measured for this model, by name; other options and settings go on top.", metavar="NAME",
        otherwise="the recipe's settings",
    )  # fmt: skip
    steps: int | None = option(None, "Sampler steps.", metavar="N", minimum=1, otherwise="the recipe's")
    seed: int = option(0, "Seed of the first sample; sample i has seed N + i.", metavar="N", minimum=0)
    batch: int | None = option(None, "Samples drawn together.", metavar="N", minimum=1, otherwise="the recipe's")
    labels: Literal["data", "balanced"] = option("data", "Classes as often as the data has them, or equally often.")
    precision: Literal["fp32", "bf16", "fp16"] | None = option(
        None, "Arithmetic of the model; metrics are in fp32.", otherwise="that of --preset, or fp32"
    )
    keep: bool = option(False, "Keep the samples as PNGs, in the folder samples of --out.")


@attrs.frozen(kw_only=True)
class EvaluateOptions:
    """A model or pictures, metrics, and the folder of the results."""

    given: Given = places_and_settings(
        1,
        "RUN|PICTURES [KEY=VALUE]...",
        "A run or weights, or data by name, folder, URL or .npz; settings of metrics, data and sampling.",
    )
    metrics: str = option(
        None, "Metrics, with commas between them.", metavar="NAME,NAME", required=True, completes="metric"
    )
    bootstrap: int = option(
        0, "Resample the pictures N times, for intervals of 95 %.", metavar="N", minimum=0, otherwise="none"
    )
    pictures: PicturesOptions = together(PicturesOptions, "Pictures")
    sampling: SamplingOptions = together(SamplingOptions, "Samples")
    out: str | None = option(
        None,
        "Folder of rows, samples and evaluation.json.",
        metavar="FOLDER",
        group="Output",
        otherwise="evaluations/, with a name from the settings",
        completes="folder",
    )
    save_statistics: str = option(
        "", "Write mean and covariance of the measured pictures here.", metavar="FILE.npz", group="Output"
    )
    cache: str = option(
        "", "Folder or URL of the references' rows.", metavar="URL", group="Output", otherwise="beside LDM_CACHE"
    )
    device: str | None = device_option("Run")
    launch: LaunchOptions = together(LaunchOptions, "Run")
    json: bool = json_option()
    quiet: bool = quiet_option()


@command(
    EvaluateOptions,
    examples=[
        "ldm-run evaluate runs/demo --metrics psnr --images 500",
        "ldm-run evaluate samples/ --against photos/ --metrics fid,kid --bootstrap 100",
        "ldm-run evaluate runs/demo --metrics kid guidance.scale=3 against.split=val",
    ],
)
def evaluate(options: EvaluateOptions) -> int:
    """Measure the samples of a model, the reconstructions of its first stage, or pictures, and write the figures with
    their protocol to evaluation.json. The same command goes on after an interruption. Settings: those of a metric
    (kid.subsets=50), of data (against.split=val) and of the sampling (guidance.scale=3)."""
    from ldm_core import storage
    from ldm_core.cli.launching import processes, start
    from ldm_core.cli.output import first_process, reporting, say, warnings_as_lines

    request = _request(options)
    out = options.out or storage.join("evaluations", request.name())
    if count := processes(options.launch):
        return start(count, out, lambda text: say(text, err=True))
    first = first_process()
    with reporting(options.json and first) as document, warnings_as_lines():
        found = _evaluated(request, options, out)
        if found is None:
            return 0
        document.update(status="done", out=storage.shown(out), **found)
        if not options.json:
            for text in _lines(found, out):
                say(text, longest=4096)
    return 0


def _request(options: EvaluateOptions) -> Request:
    from ldm_core.cli.inputs import read_size
    from ldm_core.errors import ConfigError
    from ldm_plugin_metrics.evaluation.request import Request

    if not options.given.places:
        raise ConfigError("evaluate: nothing to evaluate; give a run, or pictures, by path or URL")
    pictures, sampling = options.pictures, options.sampling
    return Request(
        place=options.given.places[0],
        metrics=tuple(name.strip() for name in options.metrics.split(",")),
        settings=tuple(options.given.settings),
        size=read_size(pictures.image_size, "--image-size"),
        channels=None if pictures.channels is None else int(pictures.channels),
        **{name: getattr(pictures, name) for name in ("against", "training", "images", "reference_images")},
        **{name: getattr(pictures, name) for name in ("fit", "filter")},
        **attrs.asdict(sampling),
        bootstrap=options.bootstrap,
        save_statistics=options.save_statistics,
        cache=options.cache,
    )


def _evaluated(request: Request, options: EvaluateOptions, out: str) -> dict[str, Any] | None:
    from ldm_core.cli.output import first_process
    from ldm_core.cli.progress import Progress
    from ldm_core.errors import Interrupted
    from ldm_core.training.engine.world import ending
    from ldm_plugin_metrics.evaluation.evaluate import evaluate as run

    world = _world(options.device)
    bar = Progress(quiet=options.quiet or not first_process(), unit="pictures")
    begun: list[str] = []

    def tell(name: str, done: int, count: int) -> None:
        if name not in begun:
            bar.ldm_stage_start(name, count, 0)
            begun.append(name)
        bar.ldm_step(name, done, {})

    try:
        with ending(world):
            return run(request, installed(), world, out, tell)
    except KeyboardInterrupt:
        raise Interrupted("the rows that are done are kept; the same command goes on with the rest") from None
    finally:
        bar.close()


def _world(device: str | None) -> World:
    """Find the place of this process among those of its launcher; by itself, it is the only one."""
    import os

    from ldm_core.model.fill import device_named
    from ldm_core.training.engine import world

    if "RANK" not in os.environ:
        return world.World(0, 1, device_named(device))
    here = world.start()
    return here if device is None else attrs.evolve(here, device=device_named(device))


def _lines(found: Mapping[str, Any], out: str) -> list[str]:
    from ldm_core import storage
    from ldm_core.cli.output import table
    from ldm_plugin_metrics.evaluation.protocol import FILE

    rows: list[tuple[str, ...]] = []
    for metric in found["metrics"]:
        for name, value in metric["values"].items():
            span = "[{:.4g}, {:.4g}]".format(*value["interval"]) if "interval" in value else ""
            floor = f"halves of the {metric['against']}: {value['floor']:.4g}" if "floor" in value else ""
            better = "higher is better" if value["higher_is_better"] else "lower is better"
            shown = name if name == metric["label"] else f"{name} ({metric['label']})"
            rows.append((shown, f"{value['value']:.6g}", span, "; ".join(filter(None, (floor, better)))))
    return [*table(rows), "", found["line"], storage.shown(storage.join(out, FILE))]
