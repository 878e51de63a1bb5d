"""Commands of ``ldm-run``: a function, and one frozen attrs class whose fields are its options.

::

    from typing import Literal

    import attrs

    from ldm_core.cli import argument, command, option


    @attrs.frozen(kw_only=True)
    class CountOptions:
        run: str = argument("RUN", "Folder of the run.")
        by: Literal["class", "prompt"] = option("class", "What is counted.", group="Counting")
        most: int | None = option(None, "Rows of the table.", metavar="N", minimum=1, group="Counting")
        json: bool = option(False, "One JSON document on stdout.")


    @command(CountOptions, examples=["ldm-run count runs/demo --by prompt"])
    def count(options: CountOptions) -> int:
        '''Count the samples of a run.'''

A distribution brings it with a :class:`ldm_core.Component` of the kind ``command``, whose factory is the text
``"my_package.count:count"``. The module is imported when the command is called, or listed by ``ldm-run plugins``; it
must import no torch, and the function imports what it works with. It returns the exit code, None for 0, and raises
:class:`ldm_core.LDMError` for what the user can fix.

A field's type says what an option takes: ``str``, ``int``, ``float``, ``Literal`` (a choice), ``bool`` (a flag), each
``| None`` where it may be left out, or ``tuple[..., ...]`` where it may be repeated. Fields that were made by neither
:func:`option`, :func:`argument` nor :func:`together` are no options.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

import attrs
import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


GENERAL = "General"
"""Heading of the options without one of their own."""
HELP: Mapping[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""Settings of a help page."""
_COLUMN = 30  # characters of the widest names of options in a help page

Options = TypeVar("Options")
Field = Any  # what stands at the right of an attrs field


class OptionForm(TypedDict, total=False):
    """The form of an option: its names, its limits, its place in the help; all by keyword."""

    flags: Sequence[str]
    """Its names, if they are not the field's name with dashes."""
    metavar: str
    """The name of its value in the help."""
    group: str
    """Its heading in the help."""
    otherwise: str
    """The value of a missing option, in words; by itself a default is shown."""
    minimum: float
    above: float
    maximum: float
    """Limits of a number; `above` is exclusive."""
    required: bool
    filled: bool
    """An empty text is a mistake, as it names nothing."""
    hidden: bool
    """It is not in the help."""
    completes: str
    """The candidates of shell completion: a kind of component, ``"name"`` (of any component, recipe or section),
    ``"kind"``, ``"recipe"``, ``"file"``, ``"folder"``, ``"setting"`` (KEY=VALUE) or ``"place"`` (a file or setting)."""


def option(default: Any, help: str, **how: Unpack[OptionForm]) -> Field:
    """Declare an option with its default and its line of help; see :class:`OptionForm`."""
    return attrs.field(default=default, metadata={"help": help, "how": how})


def argument(metavar: str, help: str, *, default: Any = attrs.NOTHING, completes: str = "") -> Field:
    """Declare a value given by its place. With a `default` it may be left out; a tuple takes any number."""
    how = {"metavar": metavar, "completes": completes, "argument": True, "required": default is attrs.NOTHING}
    return attrs.field(default=None if default is attrs.NOTHING else default, metadata={"help": help, "how": how})


def together(options: type[Any], group: str = "") -> Field:
    """Declare the options of another class as this one's; `group`: a heading for those without one."""
    return attrs.field(factory=options, metadata={"together": options, "group": group})


def command(
    options: type[Options], *, examples: Sequence[str] = (), epilog: str = ""
) -> Callable[[Callable[[Options], int | None]], Command]:
    """Make a command of a function of `options`; its docstring is the help, `examples` are whole lines of a shell."""
    params = parameters(options)

    def make(function: Callable[[Options], int | None]) -> Command:
        return Command(
            function.__name__,
            params=params,
            callback=lambda **values: function(structured(options, values)),
            help=function.__doc__,
            examples=examples,
            epilog=epilog,
        )

    return make


# ---------------------------------------------------------------------------------------------- the help of a command


class Sections:
    """The options of a click command under their headings, names aligned throughout, and examples below."""

    examples: Sequence[str] = ()

    def format_options(self: Any, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading: the arguments first, the general options last."""
        sections: dict[str, list[tuple[str, str]]] = {_Argument.group: []}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                sections.setdefault(getattr(param, "group", GENERAL), []).append(record)
        general = sections.pop(GENERAL)
        sections["Options" if list(sections) == [_Argument.group] else GENERAL] = general
        sections = {title: rows for title, rows in sections.items() if rows}
        widest = min(_COLUMN, max(len(name) for rows in sections.values() for name, _ in rows))
        for title, ((name, text), *rows) in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text), *rows], col_max=_COLUMN)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Leave them to the sections."""

    def format_epilog(self: Any, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each as it is typed, then the epilog."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))
        super().format_epilog(ctx, formatter)  # type: ignore[misc]


class Command(Sections, click.Command):
    """A command made by :func:`command`."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **{"context_settings": dict(HELP), **more})
        self.examples = tuple(examples)


class _Option(click.Option):
    """An option with a heading, and the name of its completion."""

    def __init__(self, *args: Any, group: str, completes: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.group, self.completes = group, completes

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Find the candidates for the option's value."""
        return _candidates(self.completes, incomplete) or super().shell_complete(ctx, incomplete)


class _Argument(click.Argument):
    """An argument with a line of help."""

    group = "Arguments"

    def __init__(self, *args: Any, help: str, completes: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help: str | None = help
        self.completes = completes

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Find the candidates for the argument."""
        return _candidates(self.completes, incomplete) or super().shell_complete(ctx, incomplete)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Give its name as in the usage line, and its help."""
        return str(self.metavar), self.help or ""


def _candidates(what: str, incomplete: str) -> list[CompletionItem]:
    if not what:
        return []
    from ldm_core.cli.completion import candidates

    return candidates(what, incomplete)


# ------------------------------------------------------------------------------------- from a class to click's options


def parameters(options: type[Any], group: str = "") -> list[click.Parameter]:
    """Make click's arguments and options of the fields of `options`, in their order."""
    found = [_parameter(name, kind, field, group) for name, kind, field, group in _declared(options, group)]
    if len({param.name for param in found}) < len(found):
        raise TypeError(f"{options.__name__}: two fields have the same name")
    return found


def _declared(options: type[Any], group: str) -> Iterator[tuple[str, Any, Any, str]]:
    kinds = typing.get_type_hints(options)
    for field in attrs.fields(options):
        if inner := field.metadata.get("together"):
            yield from _declared(inner, field.metadata["group"] or group)
        elif "how" in field.metadata:
            yield field.name, kinds[field.name], field, group


def _parameter(name: str, kind: Any, field: Any, group: str) -> click.Parameter:
    how = field.metadata["how"]
    inner, repeated = _inner(kind)
    common = {"type": _click_type(inner, how), "required": how.get("required", False), "metavar": how.get("metavar")}
    common |= {"callback": how.get("callback"), "completes": how.get("completes", "")}
    if "callback" not in how and field.default not in (None, ()):
        common["default"] = field.default
    if how.get("argument"):
        nargs = -1 if repeated or how.get("many") else 1
        return _Argument([name], nargs=nargs, help=field.metadata["help"], **common)
    if how.get("filled"):
        common["callback"] = _filled
    flags = how.get("flags") or ["--" + name.replace("_", "-")]
    if inner is bool:
        common = {key: common[key] for key in ("callback", "completes")} | {"is_flag": True}
    return _Option(
        [*flags, name],
        multiple=repeated,
        help=field.metadata["help"] + _default_in_words(field.default, how),
        group=how.get("group") or group or GENERAL,
        hidden=how.get("hidden", False),
        **common,
    )


def _inner(kind: Any) -> tuple[Any, bool]:
    """Take ``| None`` and ``tuple[..., ...]`` off a type: the rest, and True if it may be repeated."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    return (typing.get_args(kind)[0], True) if typing.get_origin(kind) is tuple else (kind, False)


def _click_type(kind: Any, how: Mapping[str, Any]) -> Any:
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    if kind not in (int, float):
        return click.STRING
    limits = {"min": how.get("above", how.get("minimum")), "max": how.get("maximum"), "min_open": "above" in how}
    if limits["min"] is None and limits["max"] is None:
        return click.INT if kind is int else click.FLOAT
    return (click.IntRange if kind is int else click.FloatRange)(**limits)


def _default_in_words(default: Any, how: Mapping[str, Any]) -> str:
    said = how.get("otherwise", "" if default in (None, "", (), False) else str(default))
    return f"  [default: {said}]" if said else ""


def _filled(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        ctx.fail(f"{param.opts[0]}: empty; give a name, or leave it out")
    return value


def structured(options: type[Options], values: Mapping[str, Any]) -> Options:
    """Make the object of `options` from click's values by name."""
    made = {}
    for field in attrs.fields(options):  # type: ignore[arg-type]
        if inner := field.metadata.get("together"):
            made[field.name] = structured(inner, values)
        elif field.name in values and "how" in field.metadata:
            made[field.name] = values[field.name]
    return options(**made)
