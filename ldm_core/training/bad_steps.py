"""Steps not to count: a loss or a gradient not finite, the examples behind it, and the reaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ldm_core.errors import TrainingError
from ldm_core.recipe.settings import EngineSettings
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.feed.order import Place

_NAMED = 5
_REMEMBERED = 500


def spoiled(loss: Tensor) -> Tensor:
    """A scalar loss to go backward from: if it is not finite, nor is any gradient. No wait for the device.

    One check of the gradients then covers the losses of all processes too, since gradients are averaged.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


@attrs.frozen(eq=False)
class _Step:
    number: int  # from 0
    places: tuple[Place, ...]  # and not the batches: they would stay in memory
    losses: tuple[Tensor, ...]  # (B,) each, on the device


@attrs.frozen
class _Finding:
    """The finding of a process in a step: its number of examples, those not finite, its largest loss."""

    step: int
    examples: int
    bad: tuple[tuple[str, float], ...]  # (name, loss); the name empty beyond the first few
    largest: tuple[str, float] | None


class Guard:
    """Watches a part's steps; `name_of` names a place's example in a message, `say` tells the user.

    ``bad_steps=stop`` raises; losses stay on the device until a step is measured, so nothing waits for them in
    between, and the first bad step is named then. ``skip`` looks at every step (the engine does), names the examples
    it leaves out, and raises after more than ``max_bad_steps`` in a row. All processes come to the same decision.
    """

    def __init__(
        self,
        stage: str,
        section: str,
        settings: EngineSettings,
        world: World,
        name_of: Callable[[Any], str],
        say: Callable[[str, str], None],
    ) -> None:
        self._stage, self._section, self._settings, self._world = stage, section, settings, world
        self._name_of, self._say = name_of, say
        self._history: list[_Step] = []
        self.bad, self.in_a_row = 0, 0
        """Steps left out in all, and since the last good one."""

    def after(
        self, step: int, part: Part, micros: Sequence[MicroBatch], losses: Sequence[Tensor], *, measure: bool
    ) -> bool:
        """Judge step `step` (from 0), just made or dropped by `part`; `losses` (B,) of each micro-batch.

        True if it counts. Raises :class:`TrainingError`, on all processes, if the run must stop.
        """
        skipping = self._settings.bad_steps == "skip"
        now = _Step(step, tuple(p for m in micros for p in m.places), tuple(v.detach() for v in losses))
        if skipping and part.applied:
            self.in_a_row = 0
            return True
        self._history = [now] if skipping else [*self._history, now]
        if part.applied and not measure and len(self._history) < _REMEMBERED:
            return True
        history, self._history = self._history, []
        lost = self._lost(history)
        if part.applied and not lost:
            return True
        if not lost and part.loss_scale is not None:  # fp16: the scale was too large, and is lowered
            return False
        found = self._first_bad(history) if lost else self._world.gather(self._finding(now))
        self.bad += 1
        self.in_a_row += 1
        what = self._what(found)
        if not skipping:
            raise self._stop(what)
        if self.in_a_row > self._settings.max_bad_steps:
            raise TrainingError(
                f"{self._stage}: {what}, and the {self._settings.max_bad_steps} steps before it were left out already "
                f"({self._section}.max_bad_steps); the last checkpoint stays. Lower the learning rate, or look at the "
                "data"
            )
        self._say(f"{self._stage}: {what}; the step is left out ({self.bad} so far)", "warning")
        return False

    def hold(self, part: Part) -> None:
        """Before a checkpoint: raise :class:`TrainingError`, on all processes, if the weights are lost already and no
        measured step has told so."""
        history, self._history = self._history, []
        if history and self._lost(history):
            raise self._stop(self._what(self._first_bad(history)))
        if not self._settings.zero:  # from ZeRO 1 on the engine refuses gradients not finite
            norms = torch._foreach_norm([p.detach() for p in part.names if p.requires_grad])
            if not bool(torch.stack(norms).isfinite().all()):
                raise self._stop("weights are not finite, after gradients that were not")

    def _stop(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self._stage}: {what}; the last checkpoint stays. Look at what is named, lower the learning rate, set "
            f"{self._section}.clip=1.0 or precision=fp32, or leave such steps out: {self._section}.bad_steps=skip"
        )

    def _lost(self, history: Sequence[_Step]) -> bool:
        """Say whether any process had a loss not finite; one wait for the device."""
        finite = torch.stack([v.isfinite().all() for s in history for v in s.losses]).all()
        return self._world.any(not bool(finite))

    def state(self) -> Tensor:
        """Give the state for a resumed run, (2,) int64: steps left out in all and in a row."""
        return torch.tensor([self.bad, self.in_a_row])

    def load(self, state: Tensor) -> None:
        """Go on from :meth:`state`."""
        self.bad, self.in_a_row = int(state[0]), int(state[1])

    def _first_bad(self, history: Sequence[_Step]) -> list[_Finding]:
        """Give the findings of the first step with a loss not finite in any process."""
        mine = next((i for i, s in enumerate(history) if any(not bool(v.isfinite().all()) for v in s.losses)), None)
        first = min(i for i in self._world.gather(mine) if i is not None)
        return self._world.gather(self._finding(history[first]))

    def _finding(self, step: _Step) -> _Finding:
        losses = torch.cat([v.float().flatten() for v in step.losses]).tolist()
        each = list(zip(step.places, losses, strict=True))
        bad = [(p, v) for p, v in each if not math.isfinite(v)]
        fine = [(p, v) for p, v in each if math.isfinite(v)]
        largest = max(fine, key=lambda pair: pair[1]) if fine else None
        return _Finding(
            step.number + 1,
            len(each),
            tuple((self._name_of(p) if i < _NAMED else "", v) for i, (p, v) in enumerate(bad)),
            None if largest is None else (self._name_of(largest[0]), largest[1]),
        )

    def _what(self, found: Sequence[_Finding]) -> str:
        bad = [pair for each in found for pair in each.bad]
        step, examples = found[0].step, sum(each.examples for each in found)
        if not bad:
            name, value = max((f.largest for f in found if f.largest is not None), key=lambda pair: pair[1])
            return (
                f"the gradients are not finite at step {step}, though the losses are (the largest: {value:.4g} for "
                f"{name})"
            )
        names = [name for name, _ in bad if name][:_NAMED]
        more = f" and {len(bad) - len(names)} more" if len(bad) > len(names) else ""
        whom = f"{', '.join(names)}{more}"
        every = f", which is all {examples} examples: the weights have gone astray" if len(bad) == examples > 1 else ""
        return f"the loss is {bad[0][1]} at step {step} for {whom}{every}"
