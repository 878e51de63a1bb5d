"""``ldm-run encode``: all images of some data through a trained first stage, once, for later runs to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ldm_core.cli.launching import launch_options, processes, start
from ldm_core.cli.options import RUN_EPILOG, json_option, settings_argument

_TAKEN = ("recipe", "first_stage", "cond", "data", "seed")


def _encode(settings: tuple[str, ...], **options: Any) -> int:
    from ldm_core.cli.output import first_process, reporting, say, warnings_as_lines
    from ldm_core.cli.progress import Progress

    if count := processes(options):
        return start(count, options["out"], lambda text: say(text, err=True))
    as_json = bool(options["json_flag"]) and first_process()
    with reporting(as_json) as document, warnings_as_lines(most=2):
        catalog, recipe, info = _prepared(options, settings)
        from ldm_core.training.latents.command import encode

        progress = Progress(quiet=bool(options["quiet_flag"]))
        if first_process():
            catalog.manager.register(progress)
        try:
            found = encode(recipe, info, catalog)
        finally:
            progress.close()
        document.update(status="done", **found)
        if first_process() and not options["json_flag"]:
            for line in _lines(found):
                say(line)
    return 0


def _prepared(options: Mapping[str, Any], settings: Sequence[str]) -> tuple[Any, Any, Any]:
    """(catalog, the checked recipe, what its data offers); torch-free."""
    from ldm_core.catalog import Catalog
    from ldm_core.cli.assemble import Request, assemble
    from ldm_core.errors import ConfigError
    from ldm_core.training import workflow

    catalog = Catalog.discover()
    # What only concerns the model's training or its samples is not asked for here.
    unsaid = {"denoiser": None, "sampler": None, "guidance": None, "train_steps": None, "sample_steps": None}
    said = {key: options[key] for key in _TAKEN}
    request = Request.of({**unsaid, **said, "prompt": ()}, (*settings, f"trainer.latents={_quoted(options['out'])}"))
    recipe, info = workflow.prepare(assemble(request, catalog).plain, catalog)
    if not recipe.first_stage.weights:
        raise ConfigError(
            f"encode: first_stage '{recipe.first_stage.use}' is not trained yet; give the folder of a run, or its "
            "first_stage.safetensors: --first-stage RUN"
        )
    return catalog, recipe, info


def _quoted(url: str) -> str:
    import json

    return json.dumps(url)  # a setting's value is read as YAML


def _lines(found: Mapping[str, Any]) -> list[str]:
    shape = " x ".join(map(str, found["shapes"][0])) if len(found["shapes"]) == 1 else f"{len(found['shapes'])} shapes"
    mirrored = ", mirrored too" if found["flips"] == 2 else ""
    made = f"{found['made']} made now" if found["made"] else "all there already"
    return [
        f"{found['count']} images{mirrored}, moments of {shape} as {found['dtype']}, {found['bytes'] / 1e6:.1f} MB in "
        f"{found['shards']} shards ({made})",
        f"moments: {found['folder']}",
        f"train on them: the same data, image size and conditioners, --first-stage as here, and "
        f"trainer.latents={found['latents']}",
    ]


command = click.Command(
    "encode",
    params=[
        click.Option(
            ["--first-stage"], metavar="RUN|FILE", required=True, help="A run's folder, or its first_stage.safetensors."
        ),
        click.Option(
            ["--data"],
            metavar="NAME|URL",
            multiple=True,
            help="A data set by name, folder, tar or URL pattern; repeat to mix.",
        ),
        click.Option(["--out"], metavar="URL", required=True, help="Where the moments go, for trainer.latents=URL."),
        click.Option(["--recipe"], metavar="NAME|URL", help="Recipe whose data and image size are meant."),
        click.Option(
            ["--cond"],
            metavar="NAME",
            multiple=True,
            help="The model's conditioners: data without what they read is left out.",
        ),
        click.Option(["--seed"], type=click.IntRange(min=0), metavar="N", help="Seed of the recipe."),
        *launch_options(),
        json_option(),
        click.Option(["--quiet", "quiet_flag"], is_flag=True, help="No progress."),
        settings_argument(),
    ],
    callback=_encode,
    help=(
        "Encode all images once with a trained first stage and keep the moments at --out, as shards that all processes "
        "make together and that a second call completes. A run with trainer.latents=URL finds them where its first "
        "stage, data and image settings are the same; it never uses others."
    ),
    short_help="Encode a data set once, for runs to train on.",
    epilog=RUN_EPILOG,
)
