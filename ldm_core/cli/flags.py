"""The table of keys and flags, by which the library's messages become those of the command line.

The library speaks Python. In its errors, warnings and notes, what a user can set stands in backquotes: by its key in
the recipe (``trainer.init_from``), by the name of the argument in Python (``out``, ``strict``), or as ``inputs.KEY``
for what a conditioner reads; ``=VALUE`` may follow. A name of :data:`COMMANDS` stands for a whole command::

    raise ConfigError("conditioner 'text' reads 'caption', which was not given; give `inputs.caption`")
    raise CheckpointError(f"`first_stage`: {where} holds no first stage, but {what}")
    raise ConfigError(f"{out} holds another run; give another `out`, or `recipe={url}`")

The command line prints ``give --prompt TEXT``, ``--first-stage: ...`` and ``another --out, or --recipe URL``, where the
command that runs has such an option; all else in backquotes stays as it is. :func:`in_flags` is called where errors,
warnings and a run's notes are printed, so that nobody else has to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog

KEYS: Mapping[str, str] = {
    "conditioners": "--cond",
    "dataset": "--data",
    "codec": "--from",
    "trainer.init_from": "--init-from",
    "trainer.steps": "--train-steps",
    "sample.steps": "--sample-steps",
    "sample.prompts": "--prompt",
}
"""Key of the library -> flag, where the flag is not the key itself with dashes (``first_stage``: ``--first-stage``)."""
INPUTS: Mapping[str, str] = {
    "caption": "--prompt TEXT",
    "boxes": "--boxes FILE",
    "box_labels": "--boxes FILE",
    "segmentation": "--segmentation FILE",
    "class_label": "--class NAME",
    "image": "--input image=@PICTURE",
    "mask": "--input mask=@PICTURE",
    "embedding": "--input embedding=@FILE.npy",
}
"""Key that a conditioner reads -> the option that gives it; any other one is given by ``--input KEY=...``."""
COMMANDS: Mapping[str, str] = {
    "workflow.run": "ldm-run",
    "Catalog.broken": "ldm-run plugins",
    "recipe.shipped": "ldm-run show recipes",
    "weights.describe": "ldm-run inspect",
    "weights.convert": "ldm-run convert",
    "Pipeline.reconstruct": "ldm-run reconstruct",
}
"""Name in Python -> the command that does it."""

_KEY = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?:=([^`]*))?`")
_known: frozenset[str] = frozenset()


def speak_for(command: click.Command) -> None:
    """Take `command` as the one that runs: messages name its flags from here on."""
    global _known
    _known = frozenset(name for param in command.params for name in param.opts)


def in_flags(text: str) -> str:
    """Replace the keys in backquotes in the library's `text` by flags of the command that runs."""
    return _KEY.sub(_in_flags, text)


def input_flag(key: str) -> str:
    """Write the option that gives the input `key`: ``--prompt TEXT``."""
    return INPUTS.get(key, f"--input {key}=...")


def _in_flags(found: re.Match[str]) -> str:
    key, value = found[1], found[2]
    if key in COMMANDS and value is None:
        return f"`{COMMANDS[key]}`"
    name = key.removeprefix("inputs.")
    flag = input_flag(name) if name != key else KEYS.get(key, "--" + key.replace("_", "-"))
    if flag.split()[0] not in _known:
        return found[0]
    if value is None or name != key:
        return flag
    import shlex

    return f"{flag} {shlex.quote(value)}"


_CATALOG = "ldm-run catalog"


def installed() -> Catalog:
    """Discover the catalog, once for each call of ``ldm-run``."""
    from ldm_core.catalog import Catalog

    context = click.get_current_context(silent=True)
    if context is None:
        return Catalog.discover()
    if _CATALOG not in context.meta:
        context.meta[_CATALOG] = Catalog.discover()
    found: Catalog = context.meta[_CATALOG]
    return found
