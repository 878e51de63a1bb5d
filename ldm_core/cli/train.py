"""``ldm-run train``: the run without its samples."""

from __future__ import annotations

from typing import Any

import click

from ldm_core.cli.options import RUN_EPILOG, run_options, settings_argument


def _train(settings: tuple[str, ...], **options: Any) -> int:
    from ldm_core.cli.run import STAGES, run_stages

    return run_stages(options, settings, STAGES[:-1])


command = click.Command(
    "train",
    params=[*run_options(), settings_argument()],
    callback=_train,
    help="Train the first stage and the denoiser, without sampling. Takes the options of `ldm-run` itself.",
    short_help="The run without its samples.",
    epilog=RUN_EPILOG,
)
