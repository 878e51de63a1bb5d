"""Progress on the terminal: a bar for each stage, with speed, loss and the time left; plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.cli.flags import in_flags
from ldm_core.cli.output import wrapped_at, wrapped_for
from ldm_core.errors import clean, clean_lines

LINE_EVERY_SECONDS = 10.0
LINE_EVERY_SHARE = 0.1
_TITLES = {"first_stage": "first stage", "latents": "latents", "denoiser": "denoiser", "samples": "samples"}
_WINDOW = 30  # updates over which the speed is taken


def duration(seconds: float) -> str:
    """Write seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def loss_text(logs: Mapping[str, float]) -> str:
    """Write the loss, and a PSNR where there is one."""
    names = list(logs)
    loss = next((n for n in names if n == "loss"), next((n for n in names if "loss" in n), None))
    psnr = next((n for n in names if "psnr" in n), None)
    return ", ".join(f"{n.replace('_', ' ')} {logs[n]:.4g}" for n in (loss, psnr) if n is not None)


def memory(mib: float) -> str:
    """Write MiB as ``900 MiB`` or ``12.3 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.3g} GiB"


def pace_text(logs: Mapping[str, float]) -> str:
    """Write the speed as ``412 images/s, data wait 3%, peak 1.2 GiB``, as far as `logs` hold it."""
    said = []
    if (speed := logs.get("images_per_second")) is not None:
        said.append(f"{speed:.3g} images/s" if speed < 1000 else f"{speed:.0f} images/s")
    if (waited := logs.get("data_wait")) is not None:
        said.append(f"data wait {waited:.0%}")
    if (peak := logs.get("peak_memory_mib")) is not None:
        said.append(f"peak {memory(peak)}")
    return ", ".join(said)


class Speed:
    """Steps per second over the last updates; `unit` is what a step is called, in the plural."""

    def __init__(self, steps: int, start: int, now: float, unit: str = "steps") -> None:
        self.steps, self.unit = steps, unit
        self._seen: deque[tuple[float, int]] = deque([(now, start)], maxlen=_WINDOW)

    def update(self, step: int, now: float) -> None:
        """Note that step `step` is done at `now`."""
        self._seen.append((now, step))

    def rate(self) -> float:
        """Compute the steps per second; 0 before there are two updates."""
        (then, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - then) if now > then else 0.0

    def pace(self) -> str:
        """Write ``6.6 steps/s`` or ``1.5 s/step``; nothing before there are two updates."""
        rate = self.rate()
        return (f"{rate:.3g} {self.unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit[:-1]}") if rate else ""

    def left(self) -> str:
        """Write ``2 min 31 s left``; nothing at the end, or before there are two updates."""
        rate = self.rate()
        seconds = (self.steps - self._seen[-1][1]) / rate if rate else 0.0
        return f"{duration(seconds)} left" if seconds > 0 else ""

    def text(self) -> str:
        """Write ``6.6 steps/s, 2 min 31 s left``."""
        return _listed(self.pace(), self.left())


class Progress:
    """An observer that shows a run on `stream` (stderr): register it with a catalog's plugin manager.

    On a terminal each stage has a bar with the time left and, in a line below it, loss, speed, the share of time that
    was waited for data, and peak memory. Elsewhere these are lines, one a tenth of the stage or each ten seconds.
    `quiet` leaves warnings only. `unit` is what a step is called, in the plural. `clock` and `terminal` are for tests.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        unit: str = "steps",
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._unit = quiet, unit
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._clock = clock
        self._bar: Any = None
        self._task: Any = None
        self._speed = Speed(0, 0, 0.0)
        self._began: float | None = None  # a stage may end without a beginning, when there was nothing to do
        self._stage = self._logs = self._pace = ""
        self._line = (0.0, 0)
        self._problems: set[str] = set()

    @hookimpl
    def ldm_stage_start(self, stage: str, steps: int, start: int) -> None:
        """Begin a bar."""
        now = self._clock()
        self._speed, self._began, self._line = Speed(steps, start, now, self._unit), now, (now, start)
        self._stage, self._logs, self._pace = stage, "", ""
        if self._quiet:
            return
        if self._terminal:
            self._open_bar(stage, steps, start)
        elif start:
            self._write(f"{_title(stage)}: going on at {self._unit[:-1]} {start} of {steps}")
        else:
            self._write(f"{_title(stage)}: {steps} {self._unit}" if steps > 1 else f"{_title(stage)} ...")

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        """Move the bar; without a terminal, and for measurements beside the stage, write a line now and then."""
        if stage != self._stage:
            if logs and not self._quiet and (text := loss_text(_unprefixed(logs))):
                self._write(f"{_title(stage)}: step {step}, {text}")
            return
        now = self._clock()
        self._speed.update(step, now)
        self._logs, self._pace = loss_text(logs) or self._logs, pace_text(logs) or self._pace
        if self._quiet:
            return
        if self._bar is not None:
            below = clean(_listed(self._logs, self._speed.pace(), self._pace))
            self._bar.update(self._task, completed=step, left=self._speed.left(), below=below)
            return
        since, last = self._line
        steps = self._speed.steps
        far = now - since >= 1.0 and step - last >= LINE_EVERY_SHARE * steps
        if now - since >= LINE_EVERY_SECONDS or far:
            self._line = (now, step)
            rest = _listed(self._logs, self._speed.text(), self._pace)
            self._write(f"{_title(stage)}: {step}/{steps} ({100 * step // max(1, steps)}%) {rest}".rstrip())

    @hookimpl
    def ldm_message(self, text: str, level: str) -> None:
        """Write a line for the user, the same warning only once."""
        text = in_flags(text)
        if level == "warning":
            if text not in self._problems:
                self._problems.add(text)
                self._write(f"warning: {text}")
        elif not self._quiet:
            self._write(text)

    @hookimpl
    def ldm_images(self, stage: str, step: int, name: str, url: str) -> None:
        """Name the place of a picture."""
        if not self._quiet:
            self._write(f"{_title(stage)}: wrote {url}")

    @hookimpl
    def ldm_stage_end(self, stage: str, status: str) -> None:
        """Close the bar with the time that the stage took."""
        self._close_bar()
        began, logs, self._began = self._began, self._logs, None
        self._stage = self._logs = self._pace = ""
        if self._quiet:
            return
        if status == "skipped":
            self._write(f"{_title(stage)}: already done, skipped")
            return
        how = status
        if began is not None:
            how += (" in " if status == "done" else " after ") + duration(self._clock() - began)
        self._write(f"{_title(stage)}: {how}" + (f", {logs}" if logs else ""))

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        """Leave the terminal as it was."""
        self._close_bar()

    def close(self) -> None:
        """Leave the terminal as it was; needed where a run ends by an error."""
        self._close_bar()

    def _write(self, text: str) -> None:
        text = clean_lines(text)
        if self._bar is not None:
            lines = wrapped_at(text, self._bar.console.width)
            self._bar.console.print(lines, markup=False, highlight=False, soft_wrap=True)
        else:
            print(wrapped_for(self._stream, text), file=self._stream, flush=True)

    def _open_bar(self, stage: str, steps: int, start: int) -> None:
        from rich import progress
        from rich.console import Console, RenderableType
        from rich.text import Text

        class TwoLines(progress.Progress):
            """A bar with a second line below it."""

            def get_renderables(self) -> Iterable[RenderableType]:
                """Yield the bar's row, then the line below."""
                yield self.make_tasks_table(self.tasks)
                below = "".join(task.fields["below"] for task in self.tasks)
                yield Text(f"  {below}", style="dim", no_wrap=True, overflow="ellipsis")

        self._close_bar()
        self._bar = TwoLines(
            progress.TextColumn("{task.description:<11}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.percentage:>3.0f}%"),
            progress.TextColumn("{task.fields[left]}"),
            console=Console(file=self._stream),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(_title(stage), total=max(1, steps), completed=start, left="", below="")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def _title(stage: str) -> str:
    return _TITLES.get(stage, clean(stage.replace("_", " "), 60))


def _listed(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _unprefixed(logs: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("val_"): value for name, value in logs.items()}
