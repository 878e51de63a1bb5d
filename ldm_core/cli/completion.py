"""Shell completion: candidates for options, commands and ``KEY=VALUE`` settings, and the scripts of the shells.

Importing it makes this module's bash script click's own. Nothing here imports torch: a press of TAB takes as long as
``ldm-run --help``.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator

import attrs
import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from ldm_core.cli.catalog import installed

VARIABLE = "_LDM_RUN_COMPLETE"
"""Environment variable of a shell's question for candidates."""
_PATHS = {"file": "file", "folder": "dir", "place": "file"}
_FIELDS_OF_PARTS = {
    "conditioners": ("dropout", "train"),
    "adapters": ("weights", "train"),
    "first_stage": ("weights",),
    "dataset": ("weight",),
}


class BashComplete(ShellComplete):
    """Completion in bash, with ``=`` and ``:`` as ends of a word: candidates are given from the last of them on."""

    name = "bash"
    source_template = """\
%(complete_func)s() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        case "$candidate" in
            plain,*) COMPREPLY+=("${candidate#plain,}") ;;
            dir,*) compopt -o dirnames 2>/dev/null ;;
            file,*) compopt -o default 2>/dev/null ;;
        esac
    done < <(env COMP_LINE="${COMP_LINE:0:$COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    case "${#COMPREPLY[@]}${COMPREPLY[0]}" in
        1*=|1*.) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || complete -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Split the line up to the cursor: the words before the completed one, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1].isspace() else (words[:-1], words[-1])

    def complete(self) -> str:
        """Write a line for each candidate: its type and its text."""
        args, incomplete = self.get_completion_args()
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        cut = max((incomplete.rfind(mark) + 1 for mark in "=:" if mark in breaks), default=0)
        name, equals, _ = incomplete.partition("=")
        option = name + equals if equals and name.startswith("-") else ""  # --sampler=dd: candidates are values alone
        found = self.get_completions(args, incomplete)
        return "\n".join(f"{item.type},{f'{option}{item.value}'[cut:]}" for item in found)

    def format_completion(self, item: CompletionItem) -> str:
        """Write one candidate; :meth:`complete` does so by itself."""
        return f"{item.type},{item.value}"


add_completion_class(BashComplete)


def script(shell: str, group: click.Command) -> str:
    """Write the script to make `shell`, one of bash, zsh and fish, complete `group`, the command ``ldm-run``."""
    shells: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    return shells[shell](group, {}, "ldm-run", VARIABLE).source()


def candidates(what: str, incomplete: str) -> list[CompletionItem]:
    """Find the candidates for an option or argument; `what`: see :class:`ldm_core.cli.declaration.OptionForm`.

    A candidate of the type ``file`` or ``dir`` asks the shell for its own, if no other fits.
    """
    found = [item for item in _named(what, incomplete) if item.value.startswith(incomplete)]
    paths = _PATHS.get(what, "file" if what in ("first_stage", "dataset", "recipe") else "")
    return [*([CompletionItem(incomplete, type=paths)] if paths else []), *found]


def _named(what: str, incomplete: str) -> Iterator[CompletionItem]:
    from ldm_core.catalog.component import KINDS

    if what == "kind":
        yield from (CompletionItem(kind, help=words) for kind, words in KINDS.items())
    elif what in KINDS:
        yield from _parts(what)
        yield from [CompletionItem("none", help="no conditioner")] if what == "conditioner" else []
    elif what in ("recipe", "name"):
        yield from _recipes_and_names(all_names=what == "name")
    elif what == "setting" or (what == "place" and incomplete):
        yield from settings(incomplete)


def _parts(kind: str) -> Iterator[CompletionItem]:
    catalog = installed()
    for name in catalog.names(kind):
        yield CompletionItem(name, help=_summary(kind, name))


def _summary(kind: str, name: str) -> str:
    summaries = (e.component.summary for e in installed().of(kind) if name in (e.component.name, *e.component.presets))
    return next(summaries, "")


def _recipes_and_names(*, all_names: bool) -> Iterator[CompletionItem]:
    from ldm_core.catalog.component import KINDS
    from ldm_core.recipe import keys, shipped

    yield from (CompletionItem(name, help=about) for name, about in shipped.shipped().items())
    if all_names:
        yield from (CompletionItem(name) for name in ("recipes", "settings", *keys.SECTIONS))
        for kind in KINDS:
            yield from _parts(kind) if kind != "command" else ()


# --------------------------------------------------------------------------------------------------- KEY=VALUE


def settings(incomplete: str) -> Iterator[CompletionItem]:
    """Yield the continuations of the setting `incomplete`: keys up to the next dot or ``=``, or values of a key."""
    key, equals, _ = incomplete.partition("=")
    if equals:
        yield from (CompletionItem(f"{key}={value}") for value in _values(key))
    elif "." not in key:
        yield from _keys()
    else:
        path, _, _ = key.rpartition(".")
        yield from (CompletionItem(f"{path}.{name}", help=about) for name, about in _below(path).items())


def _keys() -> Iterator[CompletionItem]:
    from ldm_core.catalog.component import KINDS
    from ldm_core.recipe import keys

    yield from (CompletionItem(f"{key}=") for key in keys.OWN)
    for key, kind in {**{kind: kind for kind in keys.SINGLE}, **keys.LISTS}.items():
        yield CompletionItem(f"{key}=", help=KINDS[kind])
        yield CompletionItem(f"{key}.", help=KINDS[kind])
    yield from (CompletionItem(f"{section}.") for section in keys.SECTIONS)


def _below(path: str) -> dict[str, str]:
    """List the continuations of ``path.``, with their help: fields as ``name=``, members of a list as ``name.``."""
    from ldm_core.recipe import keys

    first, _, member = path.partition(".")
    if first in keys.SECTIONS and not member:
        return {f"{field.name}=": field.metadata.get("help", "") for field in attrs.fields(keys.SECTIONS[first])}
    if first in keys.LISTS and not member:
        return {f"{name}.": _summary(keys.LISTS[first], name) for name in installed().names(keys.LISTS[first])}
    kind = keys.LISTS.get(first, first if first in keys.SINGLE else "")
    if not kind or "." in member or bool(member) != (first in keys.LISTS):
        return {}
    fields = {
        f"{field.name}=": field.metadata.get("help", "")
        for entry, config in installed().configs(kind)
        if member in ("", entry.component.name, *entry.component.presets)
        for field in attrs.fields(config)
    }
    more = dict.fromkeys((f"{name}=" for name in _FIELDS_OF_PARTS.get(first, ())), "")
    return {**({} if member else {"use=": "which one"}), **fields, **more}


def _values(key: str) -> list[str]:
    """List the values of a key: names of components, choices, true and false."""
    from ldm_core.recipe import keys
    from ldm_core.recipe.settings import RecipeSettings

    first, _, field = key.partition(".")
    if first in keys.SINGLE and field in ("", "use"):
        return installed().names(first)
    if first in keys.LISTS:
        kind, field = keys.LISTS[first], field.partition(".")[2]
        classes = [config for _, config in installed().configs(kind)]
    elif first in keys.SINGLE:
        classes = [config for _, config in installed().configs(first)]
    else:
        classes = [keys.SECTIONS[first]] if first in keys.SECTIONS else [RecipeSettings]
        field = field or first
    return list(dict.fromkeys(value for each in classes for value in _choices(each, field)))


def _choices(config: type, field: str) -> list[str]:
    """List a field's texts, if its type is a choice or true and false."""
    kind = typing.get_type_hints(config).get(field) if any(f.name == field for f in attrs.fields(config)) else None
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    texts = [text for each in kinds if typing.get_origin(each) is typing.Literal for text in typing.get_args(each)]
    return [*map(str, texts), *(["true", "false"] if bool in kinds else [])]
