"""The options of ``ldm-run decoder``."""

from __future__ import annotations

from typing import Literal

import attrs

from ldm_core.cli.declaration import argument, option, together
from ldm_core.cli.options import LaunchOptions, force_option, json_option, quiet_option, settings_argument


@attrs.frozen(kw_only=True)
class DecoderOptions:
    """A run, the pictures to train on, and the names of the products."""

    run: str = argument("RUN", "Folder of a run, or a trained first stage.", completes="place")
    data: str = option(
        "",
        "Pictures to train on: a folder, tar or URL pattern.",
        metavar="URL",
        otherwise="the run's own",
        group="Data",
    )
    target: Literal["pictures", "decode"] = option(
        "pictures", "What it is compared with: the data, or what the stage decodes.", group="Training"
    )
    steps: int = option(3000, "Steps of the training.", metavar="N", minimum=1, group="Training")
    name: str = option("tiny", "Its name among the run's decoders.", metavar="NAME", group="Output")
    out: str = option(
        "", "Folder of its training.", metavar="URL", otherwise="RUN-NAME", group="Output", completes="folder"
    )
    launch: LaunchOptions = together(LaunchOptions, "Training")
    force: bool = force_option("Overwrite files in --out that the training did not write.", "Output")
    json: bool = json_option()
    quiet: bool = quiet_option()
    settings: tuple[str, ...] = settings_argument()
