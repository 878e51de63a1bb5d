"""The command ``ldm-run`` itself: the whole run, subcommands by name, ``KEY=VALUE`` settings in between."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ldm_core.cli.flags import speak_for
from ldm_core.cli.options import RUN_EPILOG, run_options
from ldm_core.errors import suggest

COMMANDS: dict[str, str] = {
    "train": "The run without its samples.",
    "sample": "Images from a trained model.",
    "reconstruct": "Pictures through a first stage and back, with their PSNR.",
    "encode": "Encode a data set once, for runs to train on.",
    "convert": "Weights from one format to another.",
    "ema": "A trained model with averages of another width.",
    "inspect": "What a file or folder of weights is, without running anything of it.",
    "plugins": "What is installed, from which distribution, and what is broken.",
    "show": "One component, preset or recipe; `show recipes` lists those.",
    "check": "Check and print the resolved recipe, without importing torch.",
    "new": "Write a small plugin distribution that passes its own tests.",
}
"""Subcommand, whose module in ``commands`` has a click command named `command` -> its line in ``--help``."""


class RunGroup(click.Group):
    """A group that runs the whole job without a subcommand and imports a subcommand only when it is asked for.

    An argument with ``=`` is a setting, never a command. Options and settings in front of a command are the
    command's: ``ldm-run --seed 3 train`` is ``ldm-run train --seed 3``.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of the listing."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ldm_core.cli.commands.{cmd_name}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take settings out, and move what stands in front of a command behind it."""
        ctx.meta["ldm_core.argv"] = tuple(args)
        options, settings, rest = self._split(ctx, args)
        if rest:
            return super().parse_args(ctx, [rest[0], *options, *settings, *rest[1:]])
        speak_for(self)
        ctx.meta["ldm_core.recipe.settings"] = tuple(settings)
        return super().parse_args(ctx, options)

    def _split(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str], list[str]]:
        settings: list[str] = []
        remaining = list(args)
        while True:
            # The parser knows which options take a value, so its first positional is a setting or a command.
            parser = self.make_parser(ctx)
            parser.allow_interspersed_args = False
            rest = list(parser.parse_args(list(remaining))[1])
            place = len(remaining) - len(rest)
            if not rest or "=" not in rest[0]:
                return remaining[:place], settings, rest
            settings.append(remaining.pop(place))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or a usage error that names the nearest one."""
        if args[0] not in COMMANDS:
            ctx.fail(
                f"no command '{args[0]}'{suggest(args[0], COMMANDS)} (commands: {', '.join(COMMANDS)}; "
                "a setting is KEY=VALUE, such as trainer.steps=1000)"
            )
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            speak_for(command)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The listing, without importing a subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Of the usage line."""
        return ["[OPTIONS]", "[KEY=VALUE]...", "[COMMAND ...]"]


def _whole_run(**options: Any) -> int:
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        return 0
    from ldm_core.cli.run import whole_run

    return whole_run(options, context.meta["ldm_core.recipe.settings"])


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from ldm_core import __version__
    from ldm_core.cli.output import say

    say(f"ldm-run {__version__}")
    ctx.exit()


group = RunGroup(
    "ldm-run",
    params=[
        *run_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Print the version and stop.",
        ),
    ],
    callback=_whole_run,
    invoke_without_command=True,
    help=(
        "Train a latent diffusion model and sample from it: check, first stage, latents, denoiser, samples. A stage "
        "that is already done with the same recipe and data is skipped. Without --recipe, the small 'laptop' recipe "
        "is used; without --data, its data is the embedded 'shapes'."
    ),
    epilog=RUN_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
