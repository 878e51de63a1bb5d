"""``ldm-run ema RUN``: a trained model with averages of another width, made from a run's snapshots."""

from __future__ import annotations

import click

from ldm_core.cli.options import force_option, json_option


def _ema(run: str, width: float, out: str, step: int | None, force_flag: bool, json_flag: bool) -> int:
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say
    from ldm_core.errors import ConfigError
    from ldm_core.training.averages.posthoc import write_model

    with reporting(json_flag) as document:
        if storage.exists(out) and not force_flag:
            raise ConfigError(f"--out {storage.shown(out)}: is there already; give another name, or --force")
        made = write_model(run, width, out, step)
        document.update(
            status="done",
            path=out,
            width=width,
            step=made.step,
            snapshots=made.snapshots,
            profile_error=made.error,
        )
        if not json_flag:
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


command = click.Command(
    "ema",
    params=[
        click.Argument(["run"]),
        click.Option(
            ["--width"],
            type=float,
            required=True,
            metavar="W",
            help="Relative width of the average: its standard deviation over the length of the training.",
        ),
        click.Option(["--out"], metavar="FILE", required=True, help="Where the model goes, a .safetensors file."),
        click.Option(
            ["--step"],
            type=click.IntRange(min=1),
            metavar="N",
            help="The average as of this step's snapshot.  [default: the last]",
        ),
        force_option("Replace the file at --out."),
        json_option(),
    ],
    callback=_ema,
    help=(
        "Write the model of a finished run with averaged weights of any relative width, as a least-squares combination "
        "of the snapshots that trainer.ema_power='[0.05,0.1]' left in the run's folder (Karras et al. 2024, arXiv "
        "2312.02696). What the model has beside trained weights comes from the run's model."
    ),
    short_help="A trained model with averages of another width.",
)
