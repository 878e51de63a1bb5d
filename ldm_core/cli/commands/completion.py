"""``ldm-run completion SHELL``: the script by which a shell completes commands, options and settings."""

from __future__ import annotations

from typing import Literal

import attrs
import click

from ldm_core.cli.declaration import argument, command


@attrs.frozen(kw_only=True)
class CompletionOptions:
    """The shell that completes."""

    shell: Literal["bash", "zsh", "fish"] = argument("SHELL", "bash, zsh or fish.")


@command(
    CompletionOptions,
    examples=[
        """eval "$(ldm-run completion bash)"      # in ~/.bashrc""",
        """eval "$(ldm-run completion zsh)"       # in ~/.zshrc, after compinit""",
        "ldm-run completion fish > ~/.config/fish/completions/ldm-run.fish",
    ],
)
def completion(options: CompletionOptions) -> None:
    """Print the script that lets a shell complete commands, options, names of components and recipes, and settings."""
    from ldm_core.cli.completion import script
    from ldm_core.cli.output import say

    say(script(options.shell, click.get_current_context().find_root().command).rstrip("\n"))
