"""``ldm-run watch``: a run in training, here or elsewhere, in the terminal and as a page written again and again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from ldm_core.cli import argument, command, installed, option
from ldm_core.cli.options import force_option

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog
    from ldm_plugin_report.run import Facts

_PATIENCE = 10  # looks in a row without an answer of the storage


@attrs.frozen(kw_only=True)
class WatchOptions:
    """The run, and the pace of the looks."""

    run: str = argument("RUN|URL", "Folder or URL of the run.", completes="folder")
    every: float = option(5.0, "Seconds between looks.", metavar="SECONDS", minimum=0.2)
    html: str = option("", "Write the report here, anew at each look.", metavar="FILE.html", completes="file")
    once: bool = option(False, "Look once and leave.")
    force: bool = force_option("Overwrite the file of --html, though it is no report.", "General")


@command(
    WatchOptions,
    examples=[
        "ldm-run watch runs/demo",
        "ldm-run watch s3://bucket/runs/mine --every 30 --html mine.html",
        "ldm-run watch runs/demo --once",
    ],
)
def watch(options: WatchOptions) -> int:
    """Watch a run in training: progress, curves as sparklines, speed, warnings and the newest preview, from its folder
    alone, on a disk or in object storage. With --html a page of it as well; a browser reads it again by itself.
    It ends with the run; Ctrl-C ends it before."""
    from ldm_plugin_report.document import target

    if options.html:
        target([options.run], options.html, force=options.force)
    with contextlib.suppress(KeyboardInterrupt):
        follow(options, installed())
    return 0


def follow(options: WatchOptions, catalog: Catalog, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Look again and again until the run has ended. `sleep` is for tests."""
    from ldm_core.errors import StorageError
    from ldm_core.training.folder.state import RUNS
    from ldm_plugin_report.run import read

    facts = read(options.run)
    with _Screen() as screen:
        failed = 0
        while True:
            screen.show(facts)
            if options.html:
                _write(options, facts, catalog)
            if options.once or facts.state != RUNS:
                break
            sleep(options.every)
            try:
                facts, failed = read(options.run, before=facts), 0
            except StorageError as error:
                failed += 1
                if failed >= _PATIENCE:
                    raise
                screen.show(facts, f"{error}; asked again in {options.every:g} s")
        screen.end(facts, options)


def _write(options: WatchOptions, facts: Facts, catalog: Catalog) -> None:
    from ldm_core.training.folder.state import RUNS
    from ldm_plugin_report.document import write
    from ldm_plugin_report.page.page import page

    refresh = max(5, round(options.every)) if facts.state == RUNS and not options.once else 0
    write(options.html, page([facts], refresh=refresh, catalog=catalog))


class _Screen:
    """A view drawn anew in place on a terminal; elsewhere a line for each change."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(markup=False, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._said: object = None

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, facts: Facts, trouble: str = "") -> None:
        """Draw it."""
        from ldm_core.cli.output import say
        from ldm_core.training.folder.state import RUNS
        from ldm_plugin_report.pace import paces
        from ldm_plugin_report.terminal import line, view

        found = paces(facts.rows, facts.recipe)
        if self._live is not None:
            self._live.update(view(facts, found, self._console, trouble), refresh=True)
            return
        runs = facts.state == RUNS
        key = trouble or (len(facts.rows), facts.state)
        if key != self._said:
            say(trouble or (line(found[-1], running=runs) if found else "nothing is measured yet"))
            self._said = key

    def end(self, facts: Facts, options: WatchOptions) -> None:
        """Say why it ends."""
        from ldm_core import storage
        from ldm_core.cli.output import say
        from ldm_core.training.folder.state import KILLED, RUNS

        why = {RUNS: "it trains on", KILLED: "its process is gone; the run's command goes on from its checkpoint"}
        say(f"{facts.name}: {why.get(facts.state, facts.state)}")
        if options.html:
            say(storage.shown(options.html), longest=4096)
