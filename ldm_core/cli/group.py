"""The command ``ldm-run`` itself: the whole run, the installed commands by name, ``KEY=VALUE`` settings in between."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import click

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import HELP, Sections, parameters, structured
from ldm_core.cli.flags import speak_for
from ldm_core.cli.options import SETTINGS, RunOptions
from ldm_core.errors import ComponentError, clean, suggest
from ldm_core.launch import threads

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ldm_core.catalog import Entry

OTHER = "Other commands"
"""Heading of the commands that name none."""


def loaded(entry: Entry) -> click.Command:
    """Import a command; :class:`ComponentError` in one line where it does not load or is no command."""
    component = entry.component
    where = f"command '{component.name}' of {entry.distribution} {entry.version} does not load"
    try:
        found = component.load()
    except Exception as error:
        raise ComponentError(f"{where}: {type(error).__name__}: {clean(error)} ({component.factory})") from error
    if not isinstance(found, click.Command):
        raise ComponentError(f"{where}: {component.factory} is no command; make it with ldm_core.cli.command")
    return found


class RunGroup(Sections, click.Group):
    """A group that runs the whole job without a command, and imports a command when it is called.

    An argument with ``=`` is a setting, never a command. Options and settings in front of a command are the
    command's: ``ldm-run --seed 3 train`` is ``ldm-run train --seed 3``.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands, in the order of their registration."""
        return list(dict.fromkeys(entry.component.name for entry in installed("command").of("command")))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. ComponentError: it does not load, or two distributions claim its name."""
        catalog = installed("command")
        if cmd_name not in catalog.names("command"):
            return None
        command = loaded(catalog.get("command", cmd_name)[0])
        command.name = cmd_name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the process's threads chosen before it imports torch."""
        threads.settle()
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take settings out, and move what stands in front of a command behind it."""
        ctx.meta["ldm-run argv"] = tuple(args)
        options, settings, rest = self._split(ctx, args)
        if rest:
            return super().parse_args(ctx, [rest[0], *options, *settings, *rest[1:]])
        speak_for(self)
        ctx.meta["ldm-run settings"] = tuple(settings)
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
        """Find the command, or fail with the nearest one's name."""
        if ctx.resilient_parsing:
            with contextlib.suppress(ComponentError):
                return args[0], self.get_command(ctx, args[0]), args[1:]
            return None, None, args[1:]
        command = self.get_command(ctx, args[0])
        if command is None:
            known = self.list_commands(ctx)
            ctx.fail(
                f"no command '{args[0]}'{suggest(args[0], known)} (commands: {', '.join(known)}; "
                "a setting is KEY=VALUE, such as trainer.steps=1000)"
            )
        speak_for(command)
        return args[0], command, args[1:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Find the commands, options and settings that begin so, without importing a command."""
        from click.shell_completion import CompletionItem

        from ldm_core.cli.completion import candidates

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        named = {entry.component.name: entry.component.summary for entry in installed("command").of("command")}
        commands = [CompletionItem(name, help=line) for name, line in named.items() if name.startswith(incomplete)]
        return [*commands, *(candidates("setting", incomplete) if incomplete else ())]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their headings, without importing one."""
        groups: dict[str, dict[str, str]] = {}
        for entry in installed("command").of("command"):
            component = entry.component
            groups.setdefault(component.group or OTHER, {}).setdefault(component.name, component.summary)
        widest = max((len(name) for rows in groups.values() for name in rows), default=0)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), line) for name, line in rows.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands first, then the options of the whole run."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Say that settings and a command may follow."""
        return ["[OPTIONS]", "[KEY=VALUE]...", "[COMMAND ...]"]


def _whole_run(**values: Any) -> int:
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        return 0
    from ldm_core.cli.run import run_stages

    return run_stages(attrs.evolve(structured(RunOptions, values), settings=context.meta["ldm-run settings"]))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from ldm_core.catalog.release import VERSION
    from ldm_core.cli.output import say

    say(f"ldm-run {VERSION}")
    ctx.exit()


group = RunGroup(
    "ldm-run",
    params=[
        *(param for param in parameters(RunOptions) if isinstance(param, click.Option)),
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
    epilog=SETTINGS,
    context_settings=dict(HELP),
)
group.examples = (
    "ldm-run --cond text --prompt 'a red circle' --out runs/demo",
    "ldm-run --data photos/ --first-stage vq_f4 trainer.steps=20000",
    "ldm-run sample runs/demo --prompt 'a blue square' --images 4",
)
