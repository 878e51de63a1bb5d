"""``ldm-run check``: the resolved recipe, or everything that is wrong with it. Imports no torch."""

from __future__ import annotations

from ldm_core.cli.declaration import command
from ldm_core.cli.options import SETTINGS, RunOptions


@command(
    RunOptions,
    examples=[
        "ldm-run check --recipe ldm4_cin --data imagenet/",
        "ldm-run check --cond text trainer.steps=20000 > recipe.yaml",
    ],
    epilog=SETTINGS,
)
def check(options: RunOptions) -> int:
    """Check that the parts of a recipe fit together and that the data has what they read, and print the recipe
    with every setting. Takes the options of `ldm-run` itself; exit code 2 and a line for each problem."""
    from ldm_core.cli.output import print_yaml, reporting, say
    from ldm_core.cli.run import prepare
    from ldm_core.launch import threads
    from ldm_core.recipe.continuation import default_out

    with reporting(options.json) as document:
        prepared = prepare(options)
        plain = prepared.recipe.plain()
        notes = [*prepared.notes, *([f"data: {prepared.info.remarks}"] if prepared.info.remarks else [])]
        notes += filter(None, [threads.remark(always=True)])
        document.update(
            status="ok",
            recipe=plain,
            identity=prepared.recipe.identity(),
            out=options.out or default_out(prepared.recipe),
            notes=notes,
        )
        if not options.quiet:
            for note in notes:
                say(note, err=True, wrap=True)
        if not options.json:
            print_yaml(plain)
    return 0
