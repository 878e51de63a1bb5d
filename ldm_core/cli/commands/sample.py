"""``ldm-run sample``: images from a trained model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command
from ldm_core.cli.samples.options import SampleOptions, SamplingOptions

if TYPE_CHECKING:
    from ldm_core.cli.samples.inputs import Inputs
    from ldm_core.sampling.pipeline import Pipeline

_LOADED = ("codec", "image_size")
"""Keys of settings that concern the loading of a model, and not its sampling."""
_BLEND = "guides.blend={}"
"""The setting that fills holes by any model."""


@command(
    SampleOptions,
    examples=[
        "ldm-run sample runs/demo --prompt 'a red circle' --images 4 --guidance 3",
        "ldm-run sample runs/demo --prompt 'a red circle' --grid guidance=1,3,7",
        "ldm-run sample model.ckpt --like compvis --prompt 'a cat' --out cats",
    ],
)
def sample(options: SampleOptions) -> int:
    """Sample images from MODEL_URL, a run's folder or its model.safetensors (a path or any fsspec URL), or weights
    of another program that an installed codec knows (.ckpt, .safetensors, a folder of diffusers). Writes a PNG
    for each as soon as its batch is done, with prompt, seed, inputs, recipe and the weights' hash in its
    metadata, and all of them as grid.png. Nothing that is there is overwritten. --help-inputs says what a model takes.

    KEY=VALUE chooses the sampling anew (guidance.scale=3, time_grid=legacy), adds an adapter
    (adapters.style.weights=FILE, adapters.style.scale=0.7), gives options of a codec (codec.ema=false), and says of
    foreign weights what nothing else does (denoiser.heads=8, image_size=512).
    """
    from ldm_core.cli.output import reporting, warnings_as_lines
    from ldm_core.cli.samples import inputs as given
    from ldm_core.sampling.grids.axes import Axis

    model = _model(options)
    with reporting(options.json) as document:
        axes = [Axis.read(text) for text in options.grids.grid]
        asked = given.Asked.of(options)
        with warnings_as_lines(strict=options.strict):
            pipeline, scale = _pipeline(model, options, asked.size)
            if options.pictures.mask and "mask" not in pipeline.recipe.inputs:
                pipeline = pipeline.with_settings([_BLEND])  # beside the guides of one's own
            if options.help_inputs:
                _explain(pipeline, model, options, document)
                return 0
            inputs, whole = given.read(options, asked, pipeline)
            arguments = {**asked.arguments(options, pipeline.recipe), "inputs": inputs or None, "guidance": scale}
            if whole:
                arguments["whole"] = True
            (_draw_grid if axes else _draw)(pipeline, arguments, options, document, axes)
    return 0


def _model(options: SampleOptions) -> str:
    from ldm_core.errors import ConfigError, clean

    weights, places, settings = options.weights, options.given.places, options.given.settings
    if weights and places:
        raise ConfigError(f"sample: '{places[0]}' and --weights {weights} both say what to sample from; give one")
    if not weights and not places:
        taken = f" ('{clean(settings[0], 100)}' is a setting: nothing here is called so)" if settings else ""
        raise ConfigError(f"sample: nothing to sample from{taken}; give a run's folder, or weights by path or URL")
    return weights or places[0]


def _pipeline(model: str, options: SampleOptions, size: tuple[int, int] | None) -> tuple[Pipeline, float | None]:
    """Load the model and choose its sampling; return the guidance's scale beside it, where a scale was given."""
    from ldm_core.sampling.pipeline import Pipeline
    from ldm_core.weights.open import Wanted

    sampling, loaded = _divided(model, options.given.settings)
    if size is not None:
        loaded = _sized(loaded, size)
    wanted = options.foreign.wanted(loaded)
    more: dict[str, Any] = {} if wanted == Wanted() else {"wanted": wanted}
    chosen, guidance = options.sampling, options.sampling.scale_or_name()
    precision = options.precision or "fp32"
    pipeline = Pipeline.load(model, device=options.device, precision=precision, catalog=installed(), **more)
    if chosen.preset:
        pipeline = _by_preset(pipeline, options)
    if isinstance(guidance, str):  # by name: before its own settings
        sampling, guidance = [f"guidance.use={guidance}", *sampling], None
    parts = {"sampler": chosen.sampler, "time_grid": chosen.time_grid}
    named = [f"{key}.use={name}" for key, name in parts.items() if name]
    if chosen.like:
        pipeline = pipeline.like(chosen.like)
    guided = any(line.partition("=")[0].partition(".")[0].strip() == "guides" for line in sampling)
    if options.pictures.mask and not guided and "mask" not in pipeline.recipe.inputs:
        named.append(_BLEND)  # no part of it fills holes: any model does, by any sampler
    if named or sampling:
        pipeline = pipeline.with_settings([*named, *sampling])
    if not options.quiet:
        _say_sampling(pipeline, guidance, chosen)
    return pipeline, guidance


def _by_preset(pipeline: Pipeline, options: SampleOptions) -> Pipeline:
    from ldm_core.errors import ConfigError

    name, like = options.sampling.preset or "", options.sampling.like
    if like:
        raise ConfigError(f"--preset {name} and --like {like} both say how to sample; give one")
    return pipeline.with_preset(name, precision=options.precision)


def _divided(model: str, settings: list[str]) -> tuple[list[str], list[str]]:
    """Part the settings into those of the sampling and those of the weights."""
    from ldm_core.recipe.artifacts import is_native
    from ldm_core.recipe.places import typed
    from ldm_core.sampling.settings import CHOICES

    ours = is_native(model)  # whose recipe is known: nothing but the sampling and its size can be said of it
    places = typed(settings, installed()) if ours else []  # a tokenizer, say: no file names one
    sampling = []
    for item in settings:
        key = item.partition("=")[0].partition(".")[0].strip()
        if key == "adapters" or (item not in places and (key in CHOICES or (ours and key not in _LOADED))):
            sampling.append(item)
    return sampling, [item for item in settings if item not in sampling]


def _sized(loaded: list[str], size: tuple[int, int]) -> list[str]:
    """Add the size to the settings of the weights."""
    from ldm_core.errors import ConfigError

    if any(item.partition("=")[0].strip() == "image_size" for item in loaded):
        raise ConfigError("--size and image_size= both say how large the images are; give one")
    return [*loaded, f"image_size=[{size[0]},{size[1]}]"]


def _say_sampling(pipeline: Pipeline, scale: float | None, chosen: SamplingOptions) -> None:
    """Name the sampling on stderr, where a preset or another program's is asked for, or could be meant."""
    from ldm_core.cli.output import say
    from ldm_core.sampling import settings as sample_settings
    from ldm_core.sampling.conventions import conventions_of, in_words

    program = pipeline.made_by
    if not chosen.like and not program and not chosen.preset:
        return
    recipe = sample_settings.chosen(pipeline.recipe, scale, pipeline.catalog)
    sample_settings.require_steps(recipe, chosen.steps or recipe.sample.steps)
    words = in_words(recipe, chosen.steps)
    if chosen.preset:
        beside = pipeline.beside_preset
        beside += [name for name, value in (("steps", chosen.steps), ("guidance", scale)) if value is not None]
        more = f"; set beside it: {', '.join(beside)}" if beside else ""
        say(f"preset {chosen.preset}: {words}, {pipeline.model.precision}{more}", err=True, wrap=True)
    elif chosen.like:
        say(f"like {chosen.like}: {words}", err=True, wrap=True)
    elif program in conventions_of(pipeline.catalog):
        say(f"sampled with {words}; --like {program} takes what its own scripts do", err=True, wrap=True)


def _say_whole(pipeline: Pipeline, inputs: Inputs) -> None:
    """Say what becomes of pictures that are enlarged whole."""
    from ldm_core.cli.output import say
    from ldm_core.sampling.pieces.enlarged import Enlarger

    enlarger = Enlarger.of(pipeline.recipe)
    assert enlarger is not None
    rows, fits = [inputs] if isinstance(inputs, dict) else inputs, "x".join(map(str, enlarger.size))
    for way in dict.fromkeys(enlarger.way(row[enlarger.key].shape[1:]) for row in rows):
        say(f"{enlarger.key} of {way}; --size {fits} makes it fit one sample instead", err=True, wrap=True)


def _explain(pipeline: Pipeline, model: str, options: SampleOptions, document: dict[str, Any]) -> None:
    """Say the inputs that the model takes."""
    from ldm_core.cli.output import say
    from ldm_core.cli.samples.help_inputs import Taken

    taken = Taken.of(pipeline, model)
    document.update(taken.document())
    if not options.json:
        for line in taken.lines():
            say(line, wrap="ldm-run" not in line)  # commands are copied whole


def _draw(
    pipeline: Pipeline, arguments: dict[str, Any], options: SampleOptions, document: dict[str, Any], _: object
) -> None:
    """Sample with a bar of progress, write each batch as it is done, and the sheets of all."""
    from ldm_core.cli.output import PATH, say
    from ldm_core.cli.samples.output import Output

    output = Output.of(pipeline, arguments, options.out, force=options.force)
    if arguments.get("whole") and not options.quiet:
        _say_whole(pipeline, arguments["inputs"])
    with output.kept(options.batch or pipeline.recipe.sample.batch), _bar("samples", options) as shown:
        for batch in pipeline.stream(**arguments, callback=shown):
            output.take(batch)
        grid, boxes = output.sheet(), output.boxes()
    document.update(status="done", out=output.folder.url, grid=grid, **({"grid_boxes": boxes} if boxes else {}))
    document.update(weights_sha256=pipeline.weights, images=output.written)
    if not options.json:
        say("\n".join(filter(None, [*output.files, grid, boxes, output.left_out()])), longest=PATH)


def _draw_grid(
    pipeline: Pipeline, arguments: dict[str, Any], options: SampleOptions, document: dict[str, Any], axes: Any
) -> None:
    """Sample the cells of a grid, one after the other, write their pictures, and the labelled picture of each page."""
    from ldm_core.cli.output import PATH, say
    from ldm_core.cli.samples.grid import GridOutput

    output = GridOutput.of_axes(pipeline, axes, arguments, options.out, force=options.force)
    with output.kept(options.batch or pipeline.recipe.sample.batch), _bar("cells", options) as shown:
        begun = [cell.begun() for cell in output.cells]  # all are checked before the first is drawn
        for number, batches in enumerate(begun):
            for batch in batches:
                output.take(batch)
            shown(output.progress(number))
        grid = output.sheet()
    document.update(status="done", out=output.folder.url, grid=grid, **output.document())
    document.update(weights_sha256=pipeline.weights, images=output.written)
    if not options.json:
        say("\n".join([*output.files, *output.pages]), longest=PATH)


@contextlib.contextmanager
def _bar(title: str, options: SampleOptions) -> Iterator[Callable[[Any], None]]:
    """A bar of progress, as a function of :class:`ldm_core.sampling.result.Progress`."""
    from ldm_core.cli.progress import Progress

    bar = Progress(quiet=options.quiet)
    begun: list[bool] = []

    def show(progress: Any) -> None:
        if not begun:
            bar.ldm_stage_start(title, progress.steps, 0)
            begun.append(True)
        bar.ldm_step(title, progress.step, {})

    try:
        yield show
    finally:
        bar.close()
