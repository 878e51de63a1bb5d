"""``ldm-run encode``: all images of some data through a trained first stage, once, for later runs to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command, option, together
from ldm_core.cli.options import (
    SETTINGS,
    LaunchOptions,
    RecipeOptions,
    json_option,
    quiet_option,
    settings_argument,
)

if TYPE_CHECKING:
    from ldm_core.contracts import DataInfo
    from ldm_core.recipe.recipe import Recipe


@attrs.frozen(kw_only=True)
class EncodeOptions:
    """A trained first stage, the data that it encodes, and the folder for the moments."""

    first_stage: str = option(
        None,
        "A run's folder, or its first_stage.safetensors.",
        metavar="RUN|FILE",
        required=True,
        group="Encoding",
        completes="file",
    )
    data: tuple[str, ...] = option(
        (),
        "A data set by name, folder, tar or URL pattern; repeat to mix.",
        metavar="NAME|URL",
        group="Encoding",
        completes="dataset",
    )
    out: str = option(
        None,
        "Where the moments go, for trainer.latents=URL.",
        metavar="URL",
        required=True,
        group="Encoding",
        completes="folder",
    )
    recipe: str | None = option(
        None, "Recipe whose data and image size are meant.", metavar="NAME|URL", group="Recipe", completes="recipe"
    )
    cond: tuple[str, ...] = option(
        (),
        "The model's conditioners: data without what they read is left out.",
        metavar="NAME",
        group="Recipe",
        completes="conditioner",
    )
    seed: int | None = option(None, "Seed of the recipe.", metavar="N", minimum=0, group="Recipe")
    launch: LaunchOptions = together(LaunchOptions, "Run")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")
    settings: tuple[str, ...] = settings_argument()


@command(
    EncodeOptions,
    examples=[
        "ldm-run encode --first-stage runs/demo --data photos/ --out latents",
        "ldm-run encode --first-stage runs/demo --data photos/ --out z data.flip=true",
    ],
    epilog=SETTINGS,
)
def encode(options: EncodeOptions) -> int:
    """Encode all images once with a trained first stage and keep the moments at --out, as shards that all processes
    make together and that a second call completes. A run with trainer.latents=URL finds them where its first stage,
    data and image settings are the same; it never uses others."""
    from ldm_core.cli.launching import processes, progress_shown, start
    from ldm_core.cli.output import first_process, reporting, say, warnings_as_lines

    if count := processes(options.launch):
        return start(count, options.out, lambda text: say(text, err=True))
    first = first_process()
    with reporting(options.json and first) as document, warnings_as_lines(most=2):
        recipe, info = _prepared(options)
        from ldm_core.training.latents import command as encoding

        with progress_shown(installed(), quiet=options.quiet):
            found = encoding.encode(recipe, info, installed())
        document.update(status="done", **found)
        if first and not options.json:
            for line in _lines(found):
                say(line)
    return 0


def _prepared(options: EncodeOptions) -> tuple[Recipe, DataInfo]:
    """Make the checked recipe, without settings of training and sampling; torch-free."""
    from ldm_core.cli.assemble import assemble
    from ldm_core.errors import ConfigError
    from ldm_core.training import workflow

    request = RecipeOptions(
        recipe=options.recipe,
        first_stage=options.first_stage,
        cond=options.cond,
        data=options.data,
        seed=options.seed,
        settings=(*options.settings, f"trainer.latents={_quoted(options.out)}"),
    )
    recipe, info = workflow.prepare(assemble(request, installed()).plain, installed())
    if not recipe.first_stage.weights:
        raise ConfigError(
            f"encode: first_stage '{recipe.first_stage.use}' is not trained yet; give the folder of a run, or its "
            "first_stage.safetensors: --first-stage RUN"
        )
    return recipe, info


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
