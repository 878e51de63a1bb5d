"""``ldm-run train``: the run without its samples, or up to one of its stages."""

from __future__ import annotations

from typing import Any

import click

from ldm_core.cli.options import RUN_EPILOG, run_options, settings_argument

_STAGES = ("first_stage", "latents", "denoiser")


def _train(settings: tuple[str, ...], until: str, **options: Any) -> int:
    from ldm_core.cli.run import run_stages

    return run_stages(options, settings, _STAGES[: _STAGES.index(until) + 1])


command = click.Command(
    "train",
    params=[
        *run_options(),
        click.Option(
            ["--until"],
            type=click.Choice(_STAGES),
            default=_STAGES[-1],
            help="The last stage to do; first_stage: train a first stage alone.  [default: denoiser]",
        ),
        settings_argument(),
    ],
    callback=_train,
    help="Train the first stage and the denoiser, without sampling. Takes the options of `ldm-run` itself.",
    short_help="The run without its samples.",
    epilog=RUN_EPILOG,
)
