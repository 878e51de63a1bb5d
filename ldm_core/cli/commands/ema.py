"""``ldm-run ema RUN``: a trained model with averages of another width, made from a run's snapshots."""

from __future__ import annotations

import attrs

from ldm_core.cli.declaration import argument, command, option
from ldm_core.cli.options import force_option, json_option

_AVERAGE = "Average"


@attrs.frozen(kw_only=True)
class EmaOptions:
    """A run, the width of the average, and the file to write."""

    run: str = argument("RUN", "Folder of a run with snapshots.", completes="folder")
    width: float = option(
        None,
        "Relative width of the average: its standard deviation over the length of the training.",
        metavar="W",
        required=True,
        group=_AVERAGE,
    )
    step: int | None = option(
        None, "The average as of this step's snapshot.", metavar="N", minimum=1, otherwise="the last", group=_AVERAGE
    )
    out: str = option(
        None,
        "Where the model goes, a .safetensors file.",
        metavar="FILE",
        required=True,
        group="Output",
        completes="file",
    )
    force: bool = force_option("Replace the file at --out.", "Output")
    json: bool = json_option()


@command(EmaOptions, examples=["ldm-run ema runs/demo --width 0.07 --out wide.safetensors"])
def ema(options: EmaOptions) -> int:
    """Write the model of a finished run with averaged weights of any relative width, as a least-squares combination
    of the snapshots that trainer.ema_power='[0.05,0.1]' left in the run's folder (Karras et al. 2024, arXiv
    2312.02696). What the model has beside trained weights comes from the run's model."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say
    from ldm_core.errors import ConfigError
    from ldm_core.training.averages.posthoc import write_model

    out, width = options.out, options.width
    with reporting(options.json) as document:
        if storage.exists(out) and not options.force:
            raise ConfigError(f"--out {storage.shown(out)}: is there already; give another name, or --force")
        made = write_model(options.run, width, out, options.step)
        document.update(
            status="done", path=out, width=width, step=made.step, snapshots=made.snapshots, profile_error=made.error
        )
        if not options.json:
            say(
                f"{storage.shown(out)}: averages of relative width {width:g} at step {made.step}, from "
                f"{made.snapshots} snapshots; {made.error:.2%} of the profile is not met"
            )
        if made.poor:
            say(
                "note: the snapshots hold this width badly; take one between the widths that were tracked, a later "
                "--step, or train with more snapshots (trainer.ema_snapshots)",
                err=True,
                wrap=True,
            )
    return 0
