"""Processes of a run, ``--nproc`` and ``--timeout``: this one, or several that it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import click

from ldm_core.catalog import Catalog
from ldm_core.cli.options import LaunchOptions
from ldm_core.cli.output import first_process
from ldm_core.errors import ConfigError
from ldm_core.launch import environment


def processes(options: LaunchOptions) -> int:
    """Count the processes that this one has to start: 0 where it runs the command itself.

    Raises :class:`ConfigError` where another launcher has started it already.
    """
    if options.timeout is not None:
        os.environ[environment.TIMEOUT] = str(options.timeout)
    count = options.nproc or 1
    if environment.supervised() or count == 1:
        return 0
    if "RANK" in os.environ:
        raise ConfigError(
            f"--nproc: a launcher has started this process already, as rank {os.environ['RANK']} of "
            f"{os.environ.get('WORLD_SIZE', '?')}; leave --nproc out"
        )
    return count


def start(count: int, out: str, say: Callable[[str], None]) -> int:
    """Run this process's command line as `count` ranks, with logs in the folder `out`; returns the exit code.

    Where `out` is remote, the logs are in a new local folder, which is named.
    """
    import sys
    import tempfile

    from ldm_core import storage
    from ldm_core.launch.ranks import Ranks

    folder = storage.local_path(out)
    if folder is None:
        logs = storage.local_path(tempfile.mkdtemp(prefix="ldm-run-logs-"))
        assert logs is not None
    else:
        logs = folder / "logs"
    say(f"{count} processes; their logs: {logs}")
    arguments = click.get_current_context().meta["ldm-run argv"]
    return Ranks([sys.executable, "-m", "ldm_core.cli", *arguments], count, logs).run()


@contextlib.contextmanager
def progress_shown(catalog: Catalog, *, quiet: bool) -> Iterator[None]:
    """Show a run's progress on the first process's terminal, and in its log where this program started it."""
    from ldm_core.cli.progress import Progress

    with contextlib.ExitStack() as stack:
        shown = [Progress(quiet=quiet)] if first_process() else []
        if path := os.environ.pop(environment.RANK_LOG, ""):
            log = stack.enter_context(open(path, "a", buffering=1, encoding="utf-8"))
            shown.append(Progress(log, quiet=quiet, terminal=False))
        for each in shown:
            catalog.manager.register(each)
            stack.callback(catalog.manager.unregister, each)
            stack.callback(each.close)
        yield
