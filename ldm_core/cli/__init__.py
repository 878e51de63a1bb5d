"""The command line, ``ldm-run``. A command's module is imported once the arguments are parsed.

Exit codes: 0 done; 2 a mistake of the user's, told in a line or two on stderr; 130 interrupted, with what was done
saved. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import Command, argument, command, option, together
from ldm_core.errors import ConfigError, Interrupted, LDMError, clean_lines, quoted

__all__ = ["Command", "argument", "command", "installed", "main", "option", "together"]

_MOST_PROBLEMS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ldm-run`` with `argv` (default: the process's arguments) and return its exit code."""
    import click

    from ldm_core.cli.group import group
    from ldm_core.launch import environment, threads

    if argv is None:  # the process is the command's own
        threads.begin()
    _write_any_character()
    try:
        if "_LDM_RUN_COMPLETE" in os.environ:
            from ldm_core.cli import completion  # noqa: F401  (its scripts become click's)
        environment.follow()
        environment.adopt()
        arguments = in_unicode(sys.argv[1:] if argv is None else argv)
        code = group.main(args=arguments, prog_name="ldm-run", standalone_mode=False)
    except click.ClickException as error:
        hint = _meant_option(error)
        said = clean_lines(error.message)
        vars(error)["message"] = said.rstrip(".") + hint if hint else said
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as error:
        from ldm_core.cli.flags import in_flags

        told = "same command" in str(error)
        more = "" if told else "\nrun the same command again to go on from there"
        if environment.error_prefix(error) is not None:
            print(clean_lines(f"interrupted: {in_flags(str(error))}{more}"), file=sys.stderr)
        return 130
    except LDMError as error:
        before = environment.error_prefix(error)
        if before is not None:
            _tell(f"{before}{line}" for line in error_lines(error))
        return 2
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; nothing more can be said, and the flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def error_lines(error: LDMError) -> list[str]:
    """Write ``error: ...`` for each problem, with its further lines indented below it."""
    from ldm_core.cli.flags import in_flags

    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    lines: list[str] = []
    for problem in problems[:_MOST_PROBLEMS]:
        first, *more = clean_lines(in_flags(problem) or type(error).__name__).split("\n")
        lines += [f"error: {first}", *(f"       {line}" for line in more)]
    if (left := len(problems) - _MOST_PROBLEMS) > 0:
        lines.append(f"error: and {left} more")
    return lines


def in_unicode(arguments: Sequence[str]) -> list[str]:
    """Check that `arguments` are text that the locale can hold; else files could not be written after all the work.

    Raises :class:`ConfigError` for bytes that are no UTF-8 and for characters that the locale lacks.
    """
    narrow = sys.getfilesystemencoding()
    for word in arguments:
        try:
            word.encode()
            word.encode(narrow)
        except UnicodeEncodeError:
            if narrow != "utf-8":
                raise ConfigError(
                    f"the argument {quoted(word)} has characters that the encoding of the locale ({narrow}) lacks; "
                    "set a UTF-8 locale, such as LC_ALL=C.UTF-8, or PYTHONUTF8=1"
                ) from None
            raise ConfigError(
                f"the argument {quoted(word)} is not UTF-8; type it in a UTF-8 terminal, rename the file, or put "
                "the text into a UTF-8 file (--input caption=@FILE.txt)"
            ) from None
    return list(arguments)


def _meant_option(error: Exception) -> str:
    """Name the option or setting that an unknown option means, by the names that other programs use."""
    import click

    context = getattr(error, "ctx", None)
    if not isinstance(error, click.NoSuchOption) or context is None:
        return ""
    from ldm_core.cli.flags import option_hint

    hint = option_hint(error.option_name, context.command)
    if hint:
        vars(error)["possibilities"] = None  # what is spelt alike says less
    return hint


def _tell(lines: Iterable[str]) -> None:
    from ldm_core.cli.output import wrapped_for

    print(wrapped_for(sys.stderr, "\n".join(lines)), file=sys.stderr)


def _write_any_character() -> None:
    """Let a stdout of a narrow encoding (a pipe on Windows, an old locale) take every character, some as escapes."""
    stream = sys.stdout
    if getattr(stream, "errors", "") in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
