"""The options of a run, shared by ``ldm-run`` itself, ``train`` and ``check``. Imports click only."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from ldm_core.cli.launching import launch_options

RUN_EPILOG = (
    "Every other setting is KEY=VALUE: trainer.lr=1e-4, first_stage.channels=64, conditioners.text.dropout=0.2. "
    "See `ldm-run show NAME` for a component's options, `ldm-run check` for the whole recipe."
)


def run_options() -> list[click.Parameter]:
    """Fresh copies of the options that choose and run a recipe."""
    return [
        _option(
            "--recipe",
            "NAME|URL",
            "Recipe to start from: a shipped one (`ldm-run show recipes`), or a .yaml file.  [default: laptop]",
        ),
        _option("--first-stage", "NAME|URL", "First stage: a component or preset, or trained weights."),
        _option("--init-from", "PATH|URL", "Trained weights to start from: a run, or weights of another program."),
        _option("--denoiser", "NAME", "The network."),
        _option("--cond", "NAME", "Conditioner; repeat for several; 'none' for none.", multiple=True),
        _option("--sampler", "NAME", "Sampler."),
        _option("--time-grid", "NAME", "Time grid: at which levels the sampler asks the model."),
        _option("--guidance", "NAME|SCALE", "Guidance, or the scale of classifier-free guidance."),
        _option("--data", "NAME|URL", "A data set by name, folder, tar or URL pattern; repeat to mix.", multiple=True),
        _option("--out", "URL", "Folder of the run.  [default: runs/, with a name from the recipe]"),
        *input_options(),
        _option("--train-steps", "N", "Steps of the denoiser's training.", type=click.IntRange(min=1)),
        _option("--sample-steps", "N", "Steps of the sampler.", type=click.IntRange(min=1)),
        _option("--seed", "N", "Seed of weights, noise and data order.", type=click.IntRange(min=0)),
        *launch_options(),
        _flag("--strict", "Errors instead of warnings, e.g. for a prompt that is too long."),
        force_option("Overwrite files in --out that the run did not write, where it uses their names."),
        json_option(),
        _flag("--quiet", "No progress and no notes."),
    ]


def input_options() -> list[click.Parameter]:
    """What steers the samples."""
    return [
        _option("--prompt", "TEXT", "Caption to sample; repeat for several.", multiple=True),
        _option("--input", "KEY=VALUE|KEY=@FILE", "Input of any conditioner, by the key it reads.", multiple=True),
        _option("--boxes", "FILE|JSON", 'Layout: {"boxes": [[x, y, w, h], ...], "labels": [...]}, in 0 to 1.'),
        _option("--segmentation", "FILE", "Label map: a PNG whose pixel values are classes."),
        click.Option(["--class", "class_label"], metavar="ID|NAME", help="Class to sample."),
    ]


def weights_options() -> list[click.Parameter]:
    """What a user says of weights that another program wrote."""
    return [
        click.Option(
            ["--from", "codec"], metavar="CODEC", default="", help="Their format.  [default: what knows them]"
        ),
        _option("--sha256", "HEX", "The hash that the file must have, 64 hex digits.", default=""),
        _option("--first-stage", "PATH|URL", "A first stage for a denoiser that comes without one.", default=""),
        _flag("--partial", "Take them though tensors lack or are left over, and say which."),
    ]


def place_and_settings(places: int, metavar: str) -> click.Argument:
    """Up to `places` paths or URLs and any number of ``KEY=VALUE`` settings, in any order: a pair of tuples."""

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[list[str], list[str]]:
        alike = [bool(re.match(r"[A-Za-z_][\w.]*=", item)) for item in value]
        left = places - alike.count(False)
        for i, item in enumerate(value):
            if alike[i] and left > 0 and os.path.lexists(item):  # a run called lr=1e-3: what is there is a place
                alike[i], left = False, left - 1
        settings = [item for item, setting in zip(value, alike, strict=True) if setting]
        rest = [item for item, setting in zip(value, alike, strict=True) if not setting]
        if len(rest) > places:
            ctx.fail(f"unexpected argument '{rest[places]}'; a setting is KEY=VALUE, such as image_size=512")
        return rest, settings

    return click.Argument(["given"], nargs=-1, metavar=metavar, callback=split)


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Of an option that names something: an empty text names nothing, and is not the default."""
    if value is not None and not value.strip():
        ctx.fail(f"{param.opts[0]}: empty; give a name, or leave it out")
    return value


def json_option() -> click.Option:
    """``--json``: one JSON document on stdout, all else on stderr."""
    return _flag("--json", "One JSON document on stdout, all else on stderr.")


def force_option(help: str) -> click.Option:
    """``--force``: files that are in the way may be replaced."""
    return _flag("--force", help)


def settings_argument() -> click.Argument:
    """The ``KEY=VALUE`` arguments of a subcommand."""
    return click.Argument(["settings"], nargs=-1, metavar="[KEY=VALUE]...", callback=_only_settings)


def _only_settings(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for item in value:
        if "=" not in item:
            ctx.fail(f"unexpected argument '{item}'; a setting is KEY=VALUE, such as trainer.steps=1000")
    return value


def _option(name: str, metavar: str, help: str, **more: Any) -> click.Option:
    return click.Option([name], metavar=metavar, help=help, **more)


def _flag(name: str, help: str) -> click.Option:
    # The destination is spelled out: `json` alone would shadow the module in callbacks' keyword arguments.
    return click.Option([name, name.lstrip("-").replace("-", "_") + "_flag"], is_flag=True, help=help)
