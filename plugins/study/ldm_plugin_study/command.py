"""``ldm-run study``: studies of a model over many settings, each a command of its own."""

from __future__ import annotations

import click

from ldm_core.cli.declaration import HELP
from ldm_core.cli.flags import speak_for
from ldm_plugin_study.study.guidance import guidance
from ldm_plugin_study.tradeoff.command import tradeoff
from ldm_plugin_study.tradeoff.efficiency import efficiency


class Studies(click.Group):
    """A group whose options are those of the called command, and whose help ends with examples."""

    examples = (
        "ldm-run study guidance runs/demo --metrics kid kid.network=inception",
        "ldm-run study tradeoff --data photos/ --metrics kid --minutes 60",
    )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each as it is typed."""
        with formatter.section("Examples"):
            formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the study by its name, and let messages speak of its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            speak_for(command)
        return name, command, rest


guidance.short_help = "Quality and speed over scale, steps and sampler."
tradeoff.short_help = "First stages, by denoisers of equal training."
efficiency.short_help = "Speed, memory and quality after equal epochs."
study = Studies(
    "study",
    commands={"guidance": guidance, "tradeoff": tradeoff, "efficiency": efficiency},
    help="Study models over many settings: one table, one plot, the best of them.",
    context_settings=dict(HELP),
)
