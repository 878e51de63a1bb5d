"""``ldm-run sample``: images from a trained model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command, option, together
from ldm_core.cli.options import (
    Given,
    InputOptions,
    WeightsOptions,
    device_option,
    force_option,
    json_option,
    places_and_settings,
    quiet_option,
)

if TYPE_CHECKING:
    from ldm_core.cli.commands.sample_output import Output
    from ldm_core.sampling.image_to_image import Start
    from ldm_core.sampling.pipeline import Pipeline

_LOADED = ("codec", "image_size")
"""Keys of settings that concern the loading of a model, and not its sampling."""


@attrs.frozen(kw_only=True)
class PictureOptions:
    """Further prompts, pictures to begin from, the number and seeds of the images."""

    prompts: str | None = option(
        None, "Text file of prompts, one a line; - reads standard input.", metavar="FILE", completes="file"
    )
    negative: tuple[str, ...] = option(
        (),
        "Caption to move away from, in place of none; repeated: gone through in turn, as prompts are.",
        metavar="TEXT",
    )
    image: tuple[str, ...] = option(
        (),
        "Picture to begin from in place of noise; repeated: gone through in turn.",
        metavar="PICTURE",
        completes="file",
    )
    strength: float | None = option(
        None,
        "Share of the steps that remain from the level to which --image is noised.",
        metavar="SHARE",
        above=0,
        maximum=1,
        otherwise="0.75",
    )
    images: int | None = option(None, "How many; prompts are gone through in turn.", metavar="N", minimum=1)
    seed: int | None = option(
        None, "Seed of the first image; image i has seed N + i.", metavar="N", minimum=0, otherwise="the recipe's"
    )
    seeds: str | None = option(None, "A seed for each image: 1,2,3 or 7..10.", metavar="LIST")


@attrs.frozen(kw_only=True)
class SamplingOptions:
    """The sampling, where it is not the recipe's."""

    steps: int | None = option(
        None, "Sampler steps.", flags=["--steps", "--sample-steps"], metavar="N", minimum=1, otherwise="the recipe's"
    )
    sampler: str | None = option(
        None, "Another sampler than the recipe's.", metavar="NAME", filled=True, completes="sampler"
    )
    time_grid: str | None = option(
        None, "Another time grid than the recipe's.", metavar="NAME", filled=True, completes="time_grid"
    )
    guidance: str | None = option(
        None,
        "Another guidance than the recipe's, or the scale of the one it has.",
        metavar="NAME|SCALE",
        filled=True,
        completes="guidance",
    )
    like: str | None = option(
        None,
        "Sample as another program's scripts do by default (compvis): sampler, time grid, steps, guidance, levels "
        "cut; other options and settings go on top.",
        metavar="PROGRAM",
    )

    def scale_or_name(self) -> float | str | None:
        """The guidance as a scale, or a component's name."""
        try:
            return None if self.guidance is None else float(self.guidance)
        except ValueError:
            return self.guidance


@attrs.frozen(kw_only=True)
class SampleOptions:
    """A model, the images to draw from it, the sampling, and the folder of the pictures."""

    given: Given = places_and_settings(
        1,
        "[MODEL_URL] [KEY=VALUE]...",
        "A run's folder or weights, and settings of the sampling or of foreign weights.",
    )
    weights: str | None = option(None, "The same as MODEL_URL.", metavar="PATH|URL", group="Model", completes="file")
    device: str | None = device_option("Model")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "Arithmetic of the networks; bf16 is faster where the machine has instructions for it.", group="Model"
    )
    foreign: WeightsOptions = together(WeightsOptions, "Weights of other programs")
    inputs: InputOptions = together(InputOptions, "Images")
    pictures: PictureOptions = together(PictureOptions, "Images")
    sampling: SamplingOptions = together(SamplingOptions, "Sampling")
    batch: int | None = option(
        None,
        "Images sampled together; changes the speed. A few pixels may differ by 1/255, as sums of other sizes are "
        "rounded otherwise.",
        metavar="N",
        minimum=1,
        group="Sampling",
    )
    strict: bool = option(False, "Errors instead of warnings, e.g. for a prompt that is too long.", group="Sampling")
    out: str | None = option(
        None,
        "Where the PNGs go.",
        metavar="FOLDER",
        group="Output",
        otherwise="samples or, where that is there, samples-2, samples-3, ...",
        completes="folder",
    )
    force: bool = force_option("Overwrite pictures of the same names in --out.", "Output")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    SampleOptions,
    examples=[
        "ldm-run sample runs/demo --prompt 'a red circle' --images 4 --guidance 3",
        "ldm-run sample runs/demo --prompts prompts.txt --steps 20 --sampler ddim",
        "ldm-run sample model.ckpt --like compvis --prompt 'a cat' --out cats",
    ],
)
def sample(options: SampleOptions) -> int:
    """Sample images from MODEL_URL, a run's folder or its model.safetensors (a path or any fsspec URL), or weights
    of another program that an installed codec knows (.ckpt, .safetensors, a folder of diffusers). Writes a PNG
    for each as soon as its batch is done, with prompt, seed, inputs, recipe and the weights' hash in its
    metadata, and all of them as grid.png. Nothing that is there is overwritten.

    KEY=VALUE chooses the sampling anew (guidance.scale=3, time_grid=legacy), adds an adapter
    (adapters.style.weights=FILE, adapters.style.scale=0.7), gives options of a codec (codec.ema=false), and says of
    foreign weights what nothing else does (denoiser.heads=8, image_size=512).
    """
    from ldm_core.cli.output import PATH, reporting, say, warnings_as_lines

    model = _model(options)
    with reporting(options.json) as document:
        asked = _Asked.of(options)
        with warnings_as_lines(strict=options.strict):
            pipeline, scale = _pipeline(model, options)
            inputs = _inputs(options.inputs, pipeline)
            output = _output(pipeline, asked, inputs, options)
            with output.kept(options.batch or pipeline.recipe.sample.batch):
                arguments = {**asked.arguments(options), "inputs": inputs or None, "guidance": scale}
                _draw(pipeline, arguments, output, options)
                grid = output.sheet()
        document.update(
            status="done", out=output.folder.url, grid=grid, weights_sha256=pipeline.weights, images=output.written
        )
        if not options.json:
            say("\n".join([*output.files, grid, *filter(None, [output.left_out()])]), longest=PATH)
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


def _pipeline(model: str, options: SampleOptions) -> tuple[Pipeline, float | None]:
    """Load the model and choose its sampling; return the guidance's scale beside it, where a scale was given."""
    from ldm_core.sampling.pipeline import Pipeline
    from ldm_core.weights.open import Wanted

    sampling, loaded = _divided(model, options.given.settings)
    wanted = options.foreign.wanted(loaded)
    more: dict[str, Any] = {} if wanted == Wanted() else {"wanted": wanted}
    pipeline = Pipeline.load(model, device=options.device, precision=options.precision, catalog=installed(), **more)
    chosen, guidance = options.sampling, options.sampling.scale_or_name()
    if isinstance(guidance, str):  # by name: before its own settings
        sampling, guidance = [f"guidance.use={guidance}", *sampling], None
    parts = {"sampler": chosen.sampler, "time_grid": chosen.time_grid}
    named = [f"{key}.use={name}" for key, name in parts.items() if name]
    if chosen.like:
        pipeline = pipeline.like(chosen.like)
    if named or sampling:
        pipeline = pipeline.with_settings([*named, *sampling])
    if not options.quiet:
        _say_sampling(pipeline, guidance, chosen)
    return pipeline, guidance


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


def _say_sampling(pipeline: Pipeline, scale: float | None, chosen: SamplingOptions) -> None:
    """Name the sampling on stderr, where another program's is asked for or could be meant."""
    from ldm_core.cli.output import say
    from ldm_core.sampling import settings as sample_settings
    from ldm_core.sampling.conventions import conventions_of, in_words

    program = pipeline.made_by
    if not chosen.like and not program:
        return
    recipe = sample_settings.chosen(pipeline.recipe, scale, pipeline.catalog)
    sample_settings.require_steps(recipe, chosen.steps or recipe.sample.steps)
    words = in_words(recipe, chosen.steps)
    if chosen.like:
        say(f"like {chosen.like}: {words}", err=True, wrap=True)
    elif program in conventions_of(pipeline.catalog):
        say(f"sampled with {words}; --like {program} takes what its own scripts do", err=True, wrap=True)


@attrs.frozen
class _Asked:
    """The prompts and seeds that were given, before a model is loaded."""

    prompts: list[str]
    seed: int | list[int] | None

    @classmethod
    def of(cls, options: SampleOptions) -> _Asked:
        """Read them; ConfigError where they do not read."""
        from ldm_core.cli.inputs import read_prompts, read_seeds

        seeds = read_seeds(options.pictures.seeds)
        seed = options.pictures.seed if seeds is None else seeds
        return cls([*options.inputs.prompt, *read_prompts(options.pictures.prompts)], seed)

    def arguments(self, options: SampleOptions) -> dict[str, Any]:
        """Make the arguments of ``Pipeline.sample``, but for inputs and guidance."""
        pictures, sampling = options.pictures, options.sampling
        return {
            "prompts": self.prompts or None,
            "images": pictures.images,
            "negative": list(pictures.negative) or None,
            "start": _beginning(pictures),
            "seed": self.seed,
            "steps": sampling.steps,
            "batch": options.batch,
        }


def _beginning(pictures: PictureOptions) -> Start | None:
    """Read the pictures to begin from; nothing where none were named."""
    from ldm_core import storage
    from ldm_core.data.images import decode_image
    from ldm_core.errors import ConfigError
    from ldm_core.sampling.image_to_image import STRENGTH, Start

    strength = pictures.strength
    if not pictures.image:
        if strength is None:
            return None
        raise ConfigError(f"strength={strength:g} is for a run that begins from a picture; give one with `image`")
    urls = [url for pattern in pictures.image for url in storage.expand(pattern)]
    read = [decode_image(storage.read_bytes(url), 3, url) for url in urls]
    return Start.image(read, strength=STRENGTH if strength is None else strength)


def _inputs(given: InputOptions, pipeline: Pipeline) -> dict[str, Any]:
    """Read the conditioners' inputs, at the model's image size and with class names as numbers."""
    from ldm_core.cli.inputs import fit_all, name_classes, require_readers
    from ldm_core.data.class_names import counts_of

    recipe = pipeline.recipe
    inputs = given.read(recipe.image_channels)
    require_readers(inputs, {c.name: c.config.reads for c in recipe.conditioners})
    inputs = name_classes(inputs, pipeline.class_names, counts_of(recipe))
    fitted, notes = fit_all(inputs, recipe)
    for line in notes:
        warnings.warn(line, stacklevel=1)
    return fitted


def _output(pipeline: Pipeline, asked: _Asked, inputs: dict[str, Any], options: SampleOptions) -> Output:
    """Take a folder for the pictures, free and writable, before anything is sampled."""
    from ldm_core.cli.commands.sample_output import Output, file_name
    from ldm_core.sampling.arguments import require_arguments
    from ldm_core.sampling.inputs import count_of, rows_of, seeds_of
    from ldm_core.sampling.picture_folder import PictureFolder

    prompts, images = asked.prompts or None, options.pictures.images
    require_arguments({"prompts": prompts, "images": images, "seed": asked.seed})
    rows = rows_of(pipeline.recipe, prompts, inputs or None, count_of(images, asked.seed))
    every = seeds_of(pipeline.recipe, rows, asked.seed)
    names = [
        file_name(i, seed, str(row.get("caption", ""))) for i, (seed, row) in enumerate(zip(every, rows, strict=True))
    ]
    folder = PictureFolder.take(options.out, "samples", names, force=options.force)
    return Output(folder, names, every, rows, pipeline.class_names)


def _draw(pipeline: Pipeline, arguments: dict[str, Any], output: Output, options: SampleOptions) -> None:
    """Sample with a bar of progress; `output` takes each batch as it is done."""
    from ldm_core.cli.progress import Progress

    bar = Progress(quiet=options.quiet)
    begun: list[bool] = []

    def show(progress: Any) -> None:
        if not begun:
            bar.ldm_stage_start("samples", progress.steps, 0)
            begun.append(True)
        bar.ldm_step("samples", progress.step, {})

    try:
        for batch in pipeline.stream(**arguments, callback=show):
            output.take(batch)
    finally:
        bar.close()
