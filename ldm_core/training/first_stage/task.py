"""Training a first stage: the stage with its losses, and each opponent of its objective, with an optimizer each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStageAnswers, Opponent, StageBatch, StageLoss, StageObjectiveAnswers
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.errors import ComponentError
from ldm_core.model.fill import seeded
from ldm_core.recipe.recipe import Part as RecipePart
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.averages.ema import EMA
from ldm_core.training.bad_steps import Guard, spoiled
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.first_stage.parts import Autocast, Losses, Training, networks, trainable

STAGE = "autoencoder"
"""The stage's part, in checkpoints and logs."""


@attrs.frozen
class Objectives:
    """The live losses of a recipe: its stage objective, and its auxiliary losses by name, each with its part."""

    objective: Any
    others: Mapping[str, tuple[RecipePart, Any]] = attrs.field(factory=dict)


class FirstStageTask:
    """The part ``autoencoder`` and, each from its starting step on, those of the objective's opponents.

    `training` is what the objective may use of it; `name_of` gives the name of a place's example. Raises ConfigError
    for settings in conflict, or a stage that cannot be trained so.
    """

    stage = "first_stage"
    validate: Callable[[int], Mapping[str, float]] | None = None
    """Measures on held-out images, on every process; of the step it is told."""
    preview: Callable[[int], None] | None = None
    """Draws reconstructions."""

    def __init__(
        self,
        stage: nn.Module,
        losses: Objectives,
        recipe: Recipe,
        world: World,
        training: Training,
        *,
        name_of: Callable[[Any], str] = str,
    ) -> None:
        settings, section = recipe.first_stage_trainer, "first_stage_trainer"
        self._seed, self._world, self._stage = recipe.seed, world, trainable(stage)
        self._precision = settings.precision
        self._answers = of(StageObjectiveAnswers, losses.objective)
        if self._answers.prepare is not None:
            with seeded(mix_seed(recipe.seed, "stage_objective", "prepare")):
                self._answers.prepare(self._stage, training)
        whole = Losses(stage, losses.objective, losses.others, world.average).train()
        self.ema: EMA | None = None
        self._own = Autocast(whole, settings.precision)
        self._autoencoder = Part(STAGE, self._own, settings, world, section, networks=networks(stage), by_block=True)
        training.part = part = self._autoencoder
        whole.scale = lambda: part.scale
        self._opponents: Mapping[str, Opponent] = self._answers.opponents
        if taken := {STAGE, "ema", "task"} & set(self._opponents):
            raise ComponentError(
                f"stage objective {type(losses.objective).__name__} calls an opponent '{min(taken)}', which in "
                "checkpoints and logs is the run's own name; give it another in `opponents`, such as discriminator"
            )
        self._against = {
            name: Part(name, Autocast(module, settings.precision), settings, world, section)  # type: ignore[arg-type]
            for name, module in self._opponents.items()
        }
        parts = [self._autoencoder, *self._against.values()]
        self.parts: Sequence[Part] = parts
        self.part_steps = {p.name: 0 for p in self.parts}
        self.guards = {
            p.name: Guard(f"{self.stage} ({p.name})", section, settings, world, name_of, training.say) for p in parts
        }

    def prepare(self, start: int) -> None:
        """Nothing to prepare: the objective is asked before each step."""

    def state(self) -> dict[str, Tensor]:
        """The state for a resumed run, beside weights and optimizers."""
        own = {} if self._answers.state is None else self._answers.state()
        return {**own, **{f"bad_steps_{k}": guard.state() for k, guard in self.guards.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        if self._answers.load_state is not None:
            self._answers.load_state(state)
        for name, guard in self.guards.items():
            if (known := state.get(f"bad_steps_{name}")) is not None:
                guard.load(known)

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One step of the stage and one of each opponent that has started.

        With `measure`, logs are means over all micro-batches and processes; else there is the loss of this process's.
        """
        if self._answers.before_step is not None:
            with torch.no_grad():
                self._answers.before_step(step)
        opponents = {n: part for n, part in self._against.items() if self._opponents[n].active(step)}
        batches = self._surveyed([self._batch(m, step) for m in micros])
        found: list[dict[str, Tensor]] = []
        losses: dict[str, list[Tensor]] = {part.name: [] for part in self.parts}
        norms: dict[str, float | None] = {}
        for batch in batches:
            made: StageLoss = self._autoencoder.engine(batch)
            self._autoencoder.backward(spoiled(made.value))
            norms["grad_norm"] = self._autoencoder.step(measure=measure)
            losses[STAGE].append(_by_example(batch.images, made))
            found.append({"loss": made.value.detach(), **made.logs})
            last = len(found) == len(micros)
            for name, part in opponents.items():
                against: StageLoss = part.engine(batch, made)
                part.backward(spoiled(against.value))
                if last and not self._autoencoder.applied:
                    part.discard()  # its fake images are worth no step
                else:
                    norms[f"grad_norm_{name}"] = part.step(measure=measure)
                losses[name].append(against.value.detach().expand(len(batch.images)))
                found[-1].update(against.logs)
        if not self._counted(self._autoencoder, step, micros, losses, measure):
            return {}
        for part in opponents.values():
            self._counted(part, step, micros, losses, measure)
        self._after(step, batches, found)
        if not measure:
            return {"loss": torch.stack([f["loss"] for f in found]).mean()}
        logs: dict[str, Any] = {**mean_logs(found, self._stage, self._world)}
        logs.update({k: v for k, v in norms.items() if v is not None})
        bad = sum(guard.bad for guard in self.guards.values())
        return {**logs, "bad_steps": bad} if bad else logs

    def _counted(
        self,
        part: Part,
        step: int,
        micros: Sequence[MicroBatch],
        losses: Mapping[str, Sequence[Tensor]],
        measure: bool,
    ) -> bool:
        """Say if a part's step counts; its guard raises if the run must stop."""
        places = [MicroBatch({}, m.places) for m in micros]  # a guard remembers them, and need not keep the images
        counts = self.guards[part.name].after(step, part, places, losses[part.name], measure=measure)
        self.part_steps[part.name] += counts
        return counts

    def _batch(self, micro: MicroBatch, step: int) -> StageBatch:
        images: Tensor = micro.batch["image"]
        if images.device.type == "cpu" and self._precision == "fp32":
            # convolutions are faster so, and in bf16 the backward pass of norms slower by more (bench_layout.py)
            images = images.contiguous(memory_format=torch.channels_last)
        return StageBatch(images, step, lambda purpose: Streams(micro.seeds(self._seed, purpose), self._world.device))

    def _surveyed(self, batches: list[StageBatch]) -> list[StageBatch]:
        """For several micro-batches, each with what the objective found of all of them, before any backward pass.

        The random numbers of dropout here are drawn again in the step.
        """
        if len(batches) == 1 or self._answers.survey is None:
            return batches
        devices = [self._world.device] if self._world.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._own.casting():
            found = self._answers.survey(self._stage, batches)
        return [attrs.evolve(b, whole=whole) for b, whole in zip(batches, found, strict=True)]

    def _after(self, step: int, batches: Sequence[StageBatch], found: list[dict[str, Tensor]]) -> None:
        if self._answers.after_step is not None:
            with torch.no_grad():
                more = self._answers.after_step(step, [b.images for b in batches], found)
            for logs in found:
                logs.update({k: v for k, v in more.items() if k not in logs})


def _by_example(x: Tensor, made: StageLoss) -> Tensor:
    """A loss (B,) to tell the guilty example: its pixel error, or the loss itself if the error is finite and the loss
    is not."""
    value = made.value.detach()
    if made.image is None:
        return value.expand(len(x))
    errors = (made.image - x).abs().flatten(1).mean(1)
    blamed = value.isfinite() | ~errors.isfinite().all()
    return torch.where(blamed, errors, value)


def mean_logs(micros: Sequence[Mapping[str, Tensor]], stage: Any, world: World) -> dict[str, Tensor]:
    """The mean of equal-named logs over micro-batches and processes, as scalars (); one reduction in all.

    Logs with axes (counts of codes, KL by channel) are averaged as they are and handed to the stage's
    ``diagnostics(logs)`` to make scalars of them: the number of codes in use by a whole batch does not follow from the
    numbers of its parts. A stage without it has their means. Every process must call it.
    """
    means = {k: torch.stack([m[k].detach().float() for m in micros]).mean(0) for k in sorted(micros[0])}
    if world.size > 1:
        whole = world.average(torch.cat([v.flatten() for v in means.values()]))
        parts = whole.split([v.numel() for v in means.values()])
        means = {k: part.view(v.shape) for (k, v), part in zip(means.items(), parts, strict=True)}
    out = {k: v for k, v in means.items() if v.dim() == 0}
    if wide := {k: v for k, v in means.items() if v.dim()}:
        find = of(FirstStageAnswers, stage).diagnostics
        out.update({k: v.mean() for k, v in wide.items()} if find is None else find(wide))
    return out
