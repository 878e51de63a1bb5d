"""``ldm-run decoder RUN``: train a small decoder of a run's latents, and put it beside the run's weights."""

from __future__ import annotations

from ldm_core.cli.declaration import command
from ldm_plugin_tiny_decoder.options import DecoderOptions


@command(
    DecoderOptions,
    examples=[
        "ldm-run decoder runs/demo",
        "ldm-run decoder runs/demo first_stage.widths='[32,16]' --steps 8000",
        "ldm-run decoder runs/demo --data photos/ --target decode --name taught",
    ],
    epilog="Settings are those of a recipe: first_stage.widths='[64]', stage_objective.loss=l2, "
    "first_stage_trainer.precision=bf16. See `ldm-run show tiny_decoder`.",
)
def decoder(options: DecoderOptions) -> int:
    """Train a small decoder of the latents of a run's first stage, which stays as it is. The training is a run in a
    folder of its own: the same command goes on where it stopped. The finished decoder lies in `decoder.safetensors`
    there, and among the run's decoders, where `sample.decoder=NAME` and `sample.preview_decoder=NAME` find it."""
    from ldm_core.cli.catalog import installed
    from ldm_core.cli.launching import processes, progress_shown, start
    from ldm_core.cli.output import first_process, reporting, say, warnings_as_lines
    from ldm_core.training import workflow
    from ldm_plugin_tiny_decoder.recipe import default_out, export, recipe_of, require_name

    catalog, first = installed(), first_process()
    out = options.out or default_out(options.run, options.name)
    require_name(options.name)
    if count := processes(options.launch):
        return start(count, out, lambda text: None if options.quiet else say(text, err=True))
    with reporting(options.json and first) as document, warnings_as_lines(most=2):
        plain = recipe_of(options, catalog)
        recipe, info = workflow.prepare(plain, catalog)
        if options.force and first:
            workflow.take_over(recipe, out)
        with progress_shown(catalog, quiet=options.quiet):
            result = workflow.run(recipe, info, catalog, out, stages=("first_stage",))
        if not first:
            return 0
        made = export(recipe, out, options.run, options.name, catalog)
        document.update(status="done", out=out, decoder=made.url, beside=made.beside, numbers=dict(result.first_stage))
        if not options.json:
            for line in made.lines(result.first_stage):
                say(line, wrap=True)
    return 0
