"""The observer. It writes the run's diary on the way and its report at the end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ldm_core import hookimpl, storage
from ldm_core.contracts import Site
from ldm_plugin_report.config import ReportConfig
from ldm_plugin_report.events import Diary, machine

REPORT = "report.html"
"""The name of a report in its run's folder."""


class ReportObserver:
    """Puts down messages, stages and the machine in ``report.jsonl``, and writes ``report.html`` when the run ends, of
    whatever end. A failed report is a warning: the training
    is worth more."""

    def __init__(self, config: ReportConfig, site: Site) -> None:
        self._file = config.file
        self._out = ""
        self._diary: Diary | None = None

    @hookimpl
    def ldm_run_start(self, recipe: Mapping[str, Any], out: str) -> None:
        """Begin an entry of the diary."""
        self._out, self._diary = out, Diary(out)
        self._diary.write("start", now=True, machine=machine())

    @hookimpl
    def ldm_message(self, text: str, level: str) -> None:
        """Keep the line."""
        if self._diary is not None:
            self._diary.write("message", text=text[:4000], level=level)

    @hookimpl
    def ldm_stage_start(self, stage: str, steps: int, start: int) -> None:
        """Note the time."""
        if self._diary is not None:
            self._diary.write("stage", stage=stage, steps=steps, start=start)

    @hookimpl
    def ldm_stage_end(self, stage: str, status: str) -> None:
        """Note the time."""
        if self._diary is not None:
            self._diary.write("stage_end", stage=stage, status=status)

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        """Write the report."""
        if self._diary is None:
            return
        self._diary.write("end", now=True, status=status)
        self._diary = None
        try:
            from ldm_plugin_report.page.page import page
            from ldm_plugin_report.run import read

            storage.atomic_write(self._file or storage.join(self._out, REPORT), page([read(self._out, ended=True)]))
        except Exception as error:
            warnings.warn(f"report: not written ({type(error).__name__}: {error})", stacklevel=2)
