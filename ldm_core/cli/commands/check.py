"""``ldm-run check``: the resolved recipe, or everything that is wrong with it. Imports no torch."""

from __future__ import annotations

from typing import Any

import click

from ldm_core.cli.options import RUN_EPILOG, run_options, settings_argument


def _check(settings: tuple[str, ...], **options: Any) -> int:
    from ldm_core.cli.output import print_yaml, reporting, say
    from ldm_core.cli.run import prepare
    from ldm_core.recipe.continuation import default_out

    with reporting(bool(options["json_flag"])) as document:
        prepared = prepare(options, settings)
        plain = prepared.recipe.plain()
        notes = [*prepared.notes, *([f"data: {prepared.info.remarks}"] if prepared.info.remarks else [])]
        document.update(
            status="ok",
            recipe=plain,
            identity=prepared.recipe.identity(),
            out=options["out"] or default_out(prepared.recipe),
            notes=notes,
        )
        if not options["quiet_flag"]:
            for note in notes:
                say(note, err=True, wrap=True)
        if not options["json_flag"]:
            print_yaml(plain)
    return 0


command = click.Command(
    "check",
    params=[*run_options(), settings_argument()],
    callback=_check,
    help=(
        "Check that the parts of a recipe fit together and that the data has what they read, and print the recipe "
        "with every setting. Takes the options of `ldm-run` itself; exit code 2 and a line for each problem."
    ),
    short_help="Check and print the resolved recipe, without importing torch.",
    epilog=RUN_EPILOG,
)
