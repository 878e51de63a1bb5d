"""``ldm-run sample``: images from a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ldm_core.cli.options import (
    force_option,
    input_options,
    json_option,
    not_empty,
    place_and_settings,
    weights_options,
)

_MOST_PIPED = 64 << 20
"""Bytes of prompts that a command may hand over."""


def _sample(given: tuple[list[str], list[str]], **options: Any) -> int:
    from ldm_core.cli.output import PATH, reporting, say, warnings_as_lines

    model = _model(given[0], options["weights"], given[1])

    with reporting(bool(options["json_flag"])) as document:
        seeds = read_seeds(options["seeds"])
        prompts = [*options["prompt"], *read_prompts(options["prompts"])]
        from ldm_core.catalog import Catalog
        from ldm_core.recipe.artifacts import is_native
        from ldm_core.recipe.places import typed
        from ldm_core.sampling.pipeline import Pipeline
        from ldm_core.sampling.settings import CHOICES
        from ldm_core.weights.open import Wanted

        guidance = _guidance(options["guidance"])
        with warnings_as_lines():
            ours = is_native(model)  # whose recipe is known: nothing but the sampling and its size can be said of it
            places = typed(given[1], Catalog.discover()) if ours else []  # a tokenizer, say: no file names one
            settings = [item for item in given[1] if (key := _key(item)) in CHOICES or (ours and key not in _LOADED)]
            settings = [item for item in settings if item not in places]
            wanted = Wanted.of(
                [item for item in given[1] if item not in settings],
                codec=options["codec"],
                sha256=options["sha256"],
                first_stage=options["first_stage"],
                partial=bool(options["partial_flag"]),
            )
            more: dict[str, Any] = {} if wanted == Wanted() else {"wanted": wanted}
            pipeline = Pipeline.load(model, device=options["device"], precision=options["precision"], **more)
            if isinstance(guidance, str):  # by name: before its own settings
                settings, guidance = [f"guidance.use={guidance}", *settings], None
            named = [f"{key}.use={options[key]}" for key in ("sampler", "time_grid") if options[key]]
            pipeline = _like(pipeline, options)
            if settings:
                pipeline = pipeline.with_settings([*named, *settings])
            _told(pipeline, named, options)
            inputs = _inputs(options, pipeline)
            output = _output(pipeline, prompts, inputs, seeds, options)
            with output.kept(options["batch"] or pipeline.recipe.sample.batch):
                _draw(pipeline, prompts, inputs, seeds, {**options, "guidance": guidance, "done": output.take})
                grid = output.sheet()
        document.update(
            status="done", out=output.folder.url, grid=grid, weights_sha256=pipeline.weights, images=output.written
        )
        if not options["json_flag"]:
            say("\n".join([*output.files, grid, *filter(None, [output.left_out()])]), longest=PATH)
    return 0


def _like(pipeline: Any, options: Mapping[str, Any]) -> Any:
    return pipeline.like(options["like"]) if options["like"] else pipeline


def _told(pipeline: Any, named: list[str], options: Mapping[str, Any]) -> None:
    """A line on stderr that names the sampling, where another program's is asked for or could be meant."""
    from ldm_core.cli.output import say
    from ldm_core.sampling.conventions import conventions_of, in_words
    from ldm_core.sampling.settings import chosen, require_steps

    program = getattr(pipeline, "made_by", "")
    if options["quiet_flag"] or not (options["like"] or program):
        return
    guidance = _guidance(options["guidance"])
    scale = guidance if isinstance(guidance, float) else None
    recipe = pipeline.with_settings(named).recipe if named else pipeline.recipe
    recipe = chosen(recipe, scale, None, pipeline.catalog)
    require_steps(recipe, options["steps"] or recipe.sample.steps)
    words = in_words(recipe, options["steps"])
    if options["like"]:
        say(f"like {options['like']}: {words}", err=True, wrap=True)
    elif program in conventions_of(pipeline.catalog):
        say(f"sampled with {words}; --like {program} takes what its own scripts do", err=True, wrap=True)


_LOADED = ("codec", "image_size")
"""Keys of settings that are of how a model is loaded, and not of how it is sampled."""


def _output(
    pipeline: Any, prompts: list[str], inputs: dict[str, Any], seeds: list[int] | None, options: Mapping[str, Any]
) -> Any:
    """Where the pictures go, found to be free and writable before anything is sampled."""
    from ldm_core.cli.sample_output import Output, file_name
    from ldm_core.sampling.arguments import require_arguments
    from ldm_core.sampling.inputs import rows_of, seeds_of
    from ldm_core.sampling.picture_folder import PictureFolder

    require_arguments({"prompts": prompts or None, "images": options["images"], "seeds": seeds})
    count = options["images"] or (len(seeds) if seeds else None)
    rows = rows_of(pipeline.recipe, prompts or None, inputs or None, None, count)
    every = seeds_of(pipeline.recipe, rows, options["seed"], seeds)
    names = [
        file_name(i, seed, str(row.get("caption", ""))) for i, (seed, row) in enumerate(zip(every, rows, strict=True))
    ]
    folder = PictureFolder.take(options["out"], "samples", names, force=bool(options["force_flag"]))
    return Output(folder, names, every, rows, pipeline.class_names)


def _model(places: Sequence[str], weights: str | None, settings: Sequence[str] = ()) -> str:
    from ldm_core.errors import ConfigError, clean

    if weights and places:
        raise ConfigError(f"sample: '{places[0]}' and --weights {weights} both say what to sample from; give one")
    if not weights and not places:
        taken = f" ('{clean(settings[0], 100)}' is a setting: nothing here is called so)" if settings else ""
        raise ConfigError(f"sample: nothing to sample from{taken}; give a run's folder, or weights by path or URL")
    return weights or places[0]


def read_seeds(text: str | None) -> list[int] | None:
    """``1,2,3`` or ``7..10`` (both ends) -> seeds. :class:`ConfigError` for anything else."""
    from ldm_core.errors import ConfigError, clean

    if text is None:
        return None
    seeds: list[int] = []
    shown = clean(text, 60)
    for piece in text.split(","):
        first, dots, last = piece.strip().partition("..")
        if not all(number.isdecimal() and len(number) < 19 for number in ([first, last] if dots else [first])):
            raise ConfigError(f"--seeds {shown}: expected whole numbers such as 1,2,3 or a range such as 7..10")
        if dots and not int(first) <= int(last) < int(first) + 1_000_000:
            where = f"--seeds {shown}: '{clean(piece.strip(), 60)}'"
            raise ConfigError(f"{where} is no range of up to a million seeds, lower first")
        seeds += range(int(first), int(last) + 1) if dots else [int(first)]
    return seeds


def read_prompts(url: str | None) -> list[str]:
    """The prompts of a text file, one a line; blank lines do not count. :class:`ConfigError` where there is none."""
    from ldm_core import storage
    from ldm_core.errors import ConfigError

    if url is None:
        return []
    # split as every editor does, and not at U+2028 and the like, which are characters of a line
    text = _piped(url) if url == "-" or url.startswith(("/dev/stdin", "/dev/fd/")) else storage.read_text(url)
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise ConfigError(f"--prompts {url}: holds no prompt; write one a line")
    return prompts


def _piped(name: str) -> str:
    """The text of standard input (``-``) or of a shell's ``<(command)``: what the user handed over, no file."""
    from ldm_core.errors import ConfigError

    try:
        with click.open_file(name, "rb") as file:
            data = file.read(_MOST_PIPED + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {name}: does not read ({error}); write UTF-8, one prompt a line") from None
    if len(data) > _MOST_PIPED:
        raise ConfigError(f"--prompts {name}: gives more than {_MOST_PIPED >> 20} MiB; write fewer prompts")
    return text


def _inputs(options: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    from ldm_core.cli.inputs import fit_all, name_classes, read_inputs, require_readers
    from ldm_core.data.class_names import counts_of

    recipe = pipeline.recipe
    inputs = read_inputs(
        options["input"],
        boxes=options["boxes"],
        segmentation=options["segmentation"],
        class_label=options["class_label"],
        image_channels=recipe.image_channels,
    )
    require_readers(inputs, {c.name: c.config.reads for c in recipe.conditioners})
    inputs = name_classes(inputs, pipeline.class_names, counts_of(recipe))
    fitted, notes = fit_all(inputs, recipe)
    for line in notes:
        warnings.warn(line, stacklevel=1)
    return fitted


def _draw(
    pipeline: Any, prompts: list[str], inputs: dict[str, Any], seeds: list[int] | None, options: Mapping[str, Any]
) -> None:
    from ldm_core.cli.progress import Progress

    bar = Progress(quiet=bool(options["quiet_flag"]))
    begun: list[bool] = []

    def show(progress: Any) -> None:
        if not begun:
            bar.ldm_stage_start("samples", progress.steps, 0)
            begun.append(True)
        bar.ldm_step("samples", progress.step, {})

    try:
        pipeline.sample(
            prompts or None,
            inputs=inputs or None,
            images=options["images"],
            steps=options["steps"],
            guidance=options["guidance"],
            negative=list(options["negative"]) or None,
            sampler=options["sampler"],
            time_grid=options["time_grid"],
            **_beginning(options),
            seed=options["seed"],
            seeds=seeds,
            batch=options["batch"],
            strict=bool(options["strict_flag"]),
            callback=show,
            done=options["done"],
        )
    finally:
        bar.close()


def _beginning(options: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures to begin from and how far to go back; nothing where none were named."""
    from ldm_core import storage
    from ldm_core.data.images import decode_image

    urls = [url for pattern in options["image"] for url in storage.expand(pattern)]
    given = {"image": [decode_image(storage.read_bytes(url), 3, url) for url in urls]} if urls else {}
    return given if options["strength"] is None else {**given, "strength": options["strength"]}


def _key(setting: str) -> str:
    """The top-level key of ``KEY.SUB=VALUE``."""
    return setting.partition("=")[0].partition(".")[0].strip()


def _guidance(text: str | None) -> float | str | None:
    """A scale, or a component's name."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


command = click.Command(
    "sample",
    params=[
        place_and_settings(1, "[MODEL_URL] [KEY=VALUE]..."),
        click.Option(["--weights"], metavar="PATH|URL", help="The same as MODEL_URL."),
        *weights_options(),
        *input_options(),
        click.Option(["--prompts"], metavar="FILE", help="Text file of prompts, one a line; - reads standard input."),
        click.Option(
            ["--images"], type=click.IntRange(min=1), metavar="N", help="How many; prompts are gone through in turn."
        ),
        click.Option(
            ["--seed"],
            type=click.IntRange(min=0),
            metavar="N",
            help="Seed of the first image; image i has seed N + i.  [default: the recipe's]",
        ),
        click.Option(["--seeds"], metavar="LIST", help="A seed for each image: 1,2,3 or 7..10."),
        click.Option(
            ["--steps", "--sample-steps", "steps"],
            type=click.IntRange(min=1),
            metavar="N",
            help="Sampler steps.  [default: the recipe's]",
        ),
        click.Option(
            ["--guidance"],
            callback=not_empty,
            metavar="NAME|SCALE",
            help="Another guidance than the recipe's, or the scale of the one it has.",
        ),
        click.Option(
            ["--negative"],
            multiple=True,
            metavar="TEXT",
            help="Caption to move away from, in place of none; repeated: gone through in turn, as prompts are.",
        ),
        click.Option(
            ["--like"],
            metavar="PROGRAM",
            help="Sample as another program's scripts do by default (compvis): sampler, time grid, steps, guidance, "
            "levels cut; other options and settings go on top.",
        ),
        click.Option(["--sampler"], metavar="NAME", callback=not_empty, help="Another sampler than the recipe's."),
        click.Option(["--time-grid"], metavar="NAME", callback=not_empty, help="Another time grid than the recipe's."),
        click.Option(
            ["--image"],
            multiple=True,
            metavar="PICTURE",
            help="Picture to begin from in place of noise; repeated: gone through in turn.",
        ),
        click.Option(
            ["--strength"],
            type=click.FloatRange(0, 1, min_open=True),
            metavar="SHARE",
            help="Of the steps, that remain from the level to which --image is noised.  [default: 0.75]",
        ),
        click.Option(
            ["--batch"],
            type=click.IntRange(min=1),
            metavar="N",
            help=(
                "Images sampled together; changes the speed. A few pixels may differ by 1/255, as sums of other sizes "
                "are rounded otherwise."
            ),
        ),
        click.Option(
            ["--out"],
            metavar="FOLDER",
            help="Where the PNGs go.  [default: samples or, where that is there, samples-2, samples-3, ...]",
        ),
        force_option("Overwrite pictures of the same names in --out."),
        click.Option(
            ["--device"],
            metavar="NAME",
            callback=not_empty,
            help="cpu, cuda, ...  [default: cuda where there is one]",
        ),
        click.Option(
            ["--precision"],
            type=click.Choice(["fp32", "bf16", "fp16"]),
            default="fp32",
            help="of the networks' arithmetic; bf16 is faster where the machine has instructions for it",
        ),
        click.Option(
            ["--strict", "strict_flag"],
            is_flag=True,
            help="Errors instead of warnings, e.g. for a prompt that is too long.",
        ),
        json_option(),
        click.Option(["--quiet", "quiet_flag"], is_flag=True, help="No progress."),
    ],
    callback=_sample,
    help=(
        "Sample images from MODEL_URL, a run's folder or its model.safetensors (a path or any fsspec URL), or weights "
        "of another program that an installed codec knows (.ckpt, .safetensors, a folder of diffusers). Writes a PNG "
        "for each as soon as its batch is done, with prompt, seed, inputs, recipe and the weights' hash in its "
        "metadata, and all of them as grid.png. Nothing that is there is overwritten. "
        "KEY=VALUE chooses the sampling anew (guidance.scale=3, time_grid=legacy), gives options of a codec "
        "(codec.ema=false), and says of foreign weights what nothing else does (denoiser.heads=8, image_size=512)."
    ),
    short_help="Images from a trained model.",
)
