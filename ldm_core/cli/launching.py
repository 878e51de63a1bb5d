"""``--nproc`` and ``--timeout``: whether a command is run here, or by processes that this one starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from ldm_core.errors import ConfigError
from ldm_core.launch import environment


def launch_options() -> list[click.Parameter]:
    """How a run is divided among processes."""
    return [
        click.Option(
            ["--nproc"],
            metavar="N",
            type=click.IntRange(min=1),
            help="Processes of the run on this machine, started here: one a GPU.",
        ),
        click.Option(
            ["--timeout"],
            metavar="MINUTES",
            type=click.FloatRange(min=0, min_open=True),
            help="How long a process waits for another that does not answer.  [default: 30, or LDM_TIMEOUT]",
        ),
        # DeepSpeed's launcher gives it to what it starts; the variable LOCAL_RANK says the same.
        click.Option(["--local_rank", "--local-rank"], hidden=True, expose_value=False),
    ]


def processes(options: Mapping[str, Any]) -> int:
    """How many processes this one has to start: 0 where it runs the command itself.

    Raises :class:`ConfigError` where another launcher has started it already.
    """
    if options.get("timeout") is not None:
        os.environ[environment.TIMEOUT] = str(options["timeout"])
    count = int(options.get("nproc") or 1)
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
    arguments = click.get_current_context().meta["ldm_core.argv"]
    return Ranks([sys.executable, "-m", "ldm_core.cli", *arguments], count, logs).run()


def log_of_progress(*, quiet: bool) -> Any:
    """An observer that writes lines of the progress to the first rank's log, where its output goes to a terminal."""
    path = os.environ.pop(environment.RANK_LOG, "")
    if not path:
        return None
    from ldm_core.cli.progress import Progress

    return Progress(open(path, "a", buffering=1, encoding="utf-8"), quiet=quiet, terminal=False)
