"""``ldm-run train``: the run without its samples, or up to one of its stages."""

from __future__ import annotations

from typing import Literal

import attrs

from ldm_core.cli.declaration import command, option
from ldm_core.cli.options import SETTINGS, RunOptions


@attrs.frozen(kw_only=True)
class TrainOptions(RunOptions):
    """The options of a run, and the stage at which it ends."""

    until: Literal["first_stage", "latents", "denoiser"] = option(
        "denoiser", "The last stage to do; first_stage: train a first stage alone.", group="Run"
    )


@command(
    TrainOptions,
    examples=[
        "ldm-run train --cond text --out runs/demo",
        "ldm-run train --first-stage vq_f4 --data photos/ --until first_stage",
        "ldm-run train --init-from runs/demo --out runs/more trainer.steps=20000",
    ],
    epilog=SETTINGS,
)
def train(options: TrainOptions) -> int:
    """Train the first stage and the denoiser, without sampling. Takes the options of `ldm-run` itself."""
    from ldm_core.cli.run import run_stages
    from ldm_core.training.workflow import STAGES

    return run_stages(options, STAGES[: STAGES.index(options.until) + 1])
