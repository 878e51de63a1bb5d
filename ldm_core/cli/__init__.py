"""``ldm-run``: the command line. A subcommand's module is imported only once the arguments are parsed.

Exit codes: 0 done; 2 a mistake of the user's, told in a line or two on stderr; 130 interrupted, with what was done
saved. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ldm_core.errors import ConfigError, Interrupted, LDMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ldm-run`` with `argv` (default: the process's arguments) and return its exit code."""
    import click

    from ldm_core import launch
    from ldm_core.cli.group import group

    try:
        launch.follow()
        launch.adopt()
        code = group.main(args=None if argv is None else list(argv), prog_name="ldm-run", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as error:
        told = "same command" in str(error)
        more = "" if told else "\nrun the same command again to go on from there"
        if launch.told_here(error) is not None:
            print(f"interrupted: {error}{more}", file=sys.stderr)
        return 130
    except LDMError as error:
        before = launch.told_here(error)
        if before is not None:
            print("\n".join(f"{before}{line}" for line in error_lines(error)), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; nothing more can be said, and the flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def error_lines(error: LDMError) -> list[str]:
    """``error: ...`` for each problem; what belongs to the same problem is indented under it."""
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    lines: list[str] = []
    for problem in problems:
        first, *more = problem.splitlines() or [type(error).__name__]
        lines += [f"error: {first}", *(f"       {line}" for line in more)]
    return lines
