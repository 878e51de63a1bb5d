"""The progress of a run in training, from its measurements: steps, speed, the time left. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_plugin_report.curves import Stage, is_number, stages

_WINDOW = 12  # measurements over which the speed is taken
_SECTIONS = {"first_stage": "first_stage_trainer", "denoiser": "trainer"}


@attrs.frozen
class Pace:
    """A stage on its way: `steps` in all (0: not known), steps a second over the last measurements (0: not known), and
    the time of the last one."""

    stage: Stage
    steps: int
    rate: float
    measured: float

    @property
    def share(self) -> float:
        """The finished share, 0 if the number of steps is not known."""
        return min(1.0, self.stage.step / self.steps) if self.steps else 0.0

    @property
    def left(self) -> float:
        """Seconds to the end of the stage; 0 if they cannot be told."""
        return max(0.0, (self.steps - self.stage.step) / self.rate) if self.rate and self.steps else 0.0

    def last(self, name: str, label: str = "training") -> float | None:
        """The last value of a number."""
        for panel in self.stage.panels:
            for line in panel.lines:
                if (panel.name, line.label) == (name, label):
                    return line.points[-1][1]
        return None


def paces(rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], most: int = 200) -> list[Pace]:
    """The stages with their progress; lines of up to `most` points."""
    return [_pace(stage, rows, recipe) for stage in stages(rows, most)]


def _pace(stage: Stage, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Pace:
    section = recipe.get(_SECTIONS.get(stage.name, ""))
    steps = section.get("steps") if isinstance(section, Mapping) else 0
    own = [row for row in rows if row["stage"] == stage.name and is_number(row.get("time"))][-_WINDOW:]
    rate = 0.0
    if len(own) > 1 and own[-1]["time"] > own[0]["time"]:
        rate = (own[-1]["step"] - own[0]["step"]) / (own[-1]["time"] - own[0]["time"])
    measured = float(own[-1]["time"]) if own else 0.0
    return Pace(stage, steps if isinstance(steps, int) else 0, max(0.0, rate), measured)
