"""Training the model: denoiser and trainable conditioners together, on latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    Batch,
    Conditions,
    FirstStage,
    LossContext,
    LossOutput,
    Objective,
    ObjectiveAnswers,
    ObjectiveConfig,
    draw_times,
)
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.model.conformance.breaches import inside
from ldm_core.model.conformance.first_batch import hold_loss, hold_sampled
from ldm_core.model.conformance.first_stage import hold_latents, hold_moments
from ldm_core.model.diffusion import Model, prediction_error
from ldm_core.model.fill import seeded
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.averages.ema import EMA, whole_state
from ldm_core.training.bad_steps import Guard, spoiled
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World
from ldm_core.training.feed.loader import MicroBatch

Spans = Sequence[tuple[float, float]]
"""A span of [0, 1) for each example."""

_MODEL = "model."
"""The model's prefix in :class:`DiffusionLoss`."""


class DiffusionLoss(nn.Module):
    """Model and objective in one module, so an engine sees every parameter: ``forward`` encodes the conditions, drops
    some, and returns the loss per example."""

    def __init__(self, model: Model, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        if (prepare := of(ObjectiveAnswers, objective).prepare) is not None:
            with seeded(mix_seed(recipe.seed, "objective", "prepare")):
                prepare(model)
        self._in_context = of(ObjectiveConfig, recipe.objective.config).needs_context
        self._steps = recipe.trainer.steps
        self._begun = False  # the first batch is looked at
        self._rates = {c.name: c.dropout for c in recipe.conditioners}
        self._joint = recipe.trainer.joint_dropout
        only_adapters = recipe.trainer.train == "adapters"
        self._frozen: list[nn.Module] = [
            *(model.conditioners[c.name] for c in recipe.conditioners if only_adapters or not c.train),
            *(model.adapters[a.key] for a in recipe.adapters if not a.train and a.key in model.adapters),
        ]

    def train(self, mode: bool = True) -> DiffusionLoss:
        """As a module's; frozen conditioners and adapters stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self, x0: Tensor, batch: Batch, seeds: Sequence[int], times: Spans | None = None, step: int = 0
    ) -> LossOutput:
        """x0 (B, C, *s) normalised latents -> a loss per example (B,), at `step` (from 0) of the training.

        With `times`, a span (a, b) of [0, 1) for each example, it is a measurement: nothing is dropped, conditioners
        that draw noise do so from the seeds, u is uniform in the span, and the result is the squared error of the
        network's prediction at the schedule's time of u.
        """
        streams = Streams(seeds, x0.device)
        if times is None:
            return self._loss(x0, batch, streams, step)
        drawn = streams.uniform((len(streams),)).double()
        begin, end = torch.tensor(times, dtype=torch.float64, device=drawn.device).unbind(1)
        u = begin + (end - begin) * drawn
        t = draw_times(self.model.schedule, u.to(x0.device), x0.shape[1:])
        eps = streams.normal(x0.shape)
        cond = self.model.merged(self.model.encode(batch, seeds=seeds))
        error = prediction_error(self.model, x0.float(), eps, t, cond).value
        return LossOutput(error.square().flatten(1).mean(1))

    def _loss(self, x0: Tensor, batch: Batch, streams: Streams, step: int) -> LossOutput:
        model, held = self.model, self.model.contracts
        if held is not None and not self._begun:
            held.open(x0.shape[2:])
        conds, nulls, more = model.encode(batch, seeds=streams.seeds), None, {}
        if self._in_context:
            nulls = model.nulls(conds)
            conditions = Conditions(conds, nulls, batch=batch, specs=model.specs, seeds=streams.seeds)
            more = {"context": LossContext(conditions, batch, step, self._steps)}
        cond = model.kept(conds, self._rates, self._joint, streams, nulls)
        part = None if held is None else held.parts["objective"]
        with inside(part, "loss"):
            out = self.objective.loss(model, x0, cond, streams=streams, **more)
        hold_loss(part, out, x0)
        if held is not None:
            held.close()
        self._begun = True
        return out


class Kept(Protocol):
    """State of another, kept in a task's checkpoints."""

    def state(self) -> Tensor:
        """Its state, a tensor of numbers."""
        ...

    def load(self, state: Tensor) -> None:
        """Go on from :meth:`state`."""
        ...


class DenoiserTask:
    """One part, ``model``; its latents come from cached moments (batch key ``moments``) or from the images.

    `name_of` gives the name of a place's example, `say` tells the user of steps left out, and `snapshot`, if
    power-function averages are kept, stores them after a step (counted from 1).
    """

    stage = "denoiser"

    def __init__(
        self,
        model: Model,
        objective: Objective,
        stage: FirstStage,
        recipe: Recipe,
        world: World,
        *,
        name_of: Callable[[Any], str] = str,
        say: Callable[[str, str], None] = lambda text, level: None,
    ) -> None:
        self._recipe, self._first_stage = recipe, stage
        self._stage_named = None if model.contracts is None else model.contracts.parts["first_stage"]
        settings = recipe.trainer
        model.precision = settings.precision
        self._loss = DiffusionLoss(model, objective, recipe)
        self._loss.train()
        networks: list[Any] = [model.denoiser, *model.conditioners.values()]
        self.parts: Sequence[Part] = [Part("model", self._loss, settings, world, "trainer", networks=networks)]
        self.ema: EMA | None = None
        if settings.ema or settings.ema_power:
            self.ema = EMA(self._loss, settings.ema, settings.ema_power)
        self._replaced: frozenset[str] = frozenset()  # names of weights in whose place the objective's are sampled
        self.part_steps = {"model": 0}
        self.guard = Guard(self.stage, "trainer", settings, world, name_of, say)
        self.snapshot: Callable[[int], None] | None = None
        self.validate: Callable[[int], Mapping[str, float]] | None = None
        self.preview: Callable[[int], None] | None = None
        self.evaluation: Kept | None = None

    def prepare(self, start: int) -> None:
        """Nothing to prepare: the conditioners were fitted before the model was built."""

    @torch.no_grad()
    def latents(self, batch: Batch, seeds: Sequence[int]) -> Tensor:
        """Normalised latents (B, C, *s) of a batch with ``moments`` or ``image``, one draw a seed."""
        stage, moments, first = self._first_stage, batch.get("moments"), self._stage_named
        if moments is None:
            with inside(self._stage_named, "encode_moments"):
                moments = stage.encode_moments(batch["image"])
            if first is not None:
                hold_moments(first, moments, batch["image"], stage.latent)
        with inside(self._stage_named, "latents"):
            z = stage.latents(moments.float(), streams=Streams(seeds, moments.device))
        if first is not None:
            hold_latents(first, z, moments, stage.latent)
            self._stage_named = None  # one batch tells
        return z

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One optimizer step over the micro-batches, and the averages after it; a rejected step leaves weights, moments
        and averages unchanged."""
        part, seed, settings = self.parts[0], self._recipe.seed, self._recipe.trainer
        logs: dict[str, Any] = {}
        losses: list[Tensor] = []
        norm: float | None = None
        for micro in micros:
            x0 = self.latents(micro.batch, micro.seeds(seed, "latents"))
            out = part.engine(x0, micro.batch, micro.seeds(seed, "diffusion"), step=step)
            loss = out.value.mean()
            part.backward(spoiled(loss))
            norm = part.step(measure=measure)
            losses.append(out.value.detach())
            for key, value in {"loss": loss, **(out.logs if measure else {})}.items():
                logs[key] = logs.get(key, 0.0) + value.detach().mean() / len(micros)
        bad = self.guard.bad
        if self.guard.after(step, part, micros, losses, measure=measure):
            self.part_steps["model"] += 1
            self._after_step(step)
            if self.ema is not None:
                self.ema.update()
            if norm is not None:
                logs["grad_norm"] = norm
        elif self.guard.bad > bad:
            logs = {}
        if measure and self.guard.bad:
            logs["bad_steps"] = self.guard.bad
        every = settings.ema_snapshots or settings.checkpoint_every
        if self.snapshot is not None and ((step + 1) % every == 0 or step + 1 == settings.steps):
            self.snapshot(step + 1)
        return logs

    @torch.no_grad()
    def _after_step(self, step: int) -> None:
        """Let the objective follow a step that counts, with whole weights; it may write its own frozen ones."""
        objective, model = self._loss.objective, self._loss.model
        after = of(ObjectiveAnswers, objective).after_step
        if after is None:
            return
        own = objective.parameters() if isinstance(objective, nn.Module) else ()
        named = None if model.contracts is None else model.contracts.parts["objective"]
        with self.parts[0].gathered([p for p in own if not p.requires_grad]), inside(named, "after_step"):
            after(model, step)

    def state(self) -> dict[str, Tensor]:
        """The state for a resumed run, beside weights, optimizer and averages; raises :class:`TrainingError` if nothing
        is worth keeping."""
        self.guard.hold(self.parts[0])
        more = {} if self.evaluation is None else {"evaluation": self.evaluation.state()}
        return {"bad_steps": self.guard.state(), **more}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        if "bad_steps" in tensors:
            self.guard.load(tensors["bad_steps"])
        if self.evaluation is not None and "evaluation" in tensors:
            self.evaluation.load(tensors["evaluation"])

    @contextmanager
    def averaged(self) -> Iterator[Model]:
        """A context with the model in eval mode, with its averaged weights if such are kept; afterwards everything is
        as before, bit for bit. All processes must enter it."""
        engine = self.parts[0].engine
        engine.eval()
        try:
            if self.ema is None:
                yield self._loss.model
            else:
                with self.ema.swapped_in():
                    yield self._loss.model
        finally:
            engine.train()

    @torch.no_grad()
    def errors(self, x0: Tensor, batch: Batch, seeds: Sequence[int], times: Spans) -> Tensor:
        """Squared errors (B,) of the network's prediction, at a time of each one's span in `times`; see
        :class:`DiffusionLoss`. All processes must call it."""
        out: LossOutput = self.parts[0].engine(x0, batch, seeds, times)
        return out.value

    @property
    def is_averaged(self) -> bool:
        """True if :meth:`averaged` has averages."""
        return bool(self._recipe.trainer.ema)

    @property
    def averages(self) -> frozenset[str]:
        """The names of those of the last :meth:`weights` that are averages: trained ones, which the objective did not
        give."""
        kept = () if self.ema is None else self.ema.shadow
        return frozenset(k.removeprefix(_MODEL) for k in kept if k.startswith(_MODEL)) - self._replaced

    def weights(self) -> dict[str, Tensor]:
        """The model's weights to sample with, whole, on the CPU: averaged if an average is kept, and the objective's in
        the place of those that it gives. All processes must call it."""
        state = self.ema.state(self._loss) if self.ema else whole_state(self._loss)
        own = {k.removeprefix(_MODEL): v.detach().cpu() for k, v in state.items() if k.startswith(_MODEL)}
        given = self._given(own)
        self._replaced = frozenset(given)
        return {**own, **given}

    def _given(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sampled, held = of(ObjectiveAnswers, self._loss.objective).sampled, self._loss.model.contracts
        if sampled is None:
            return {}
        named = None if held is None else held.parts["objective"]
        with self.parts[0].gathered(), inside(named, "sampled"):
            given = {name: value.detach().to("cpu", copy=True) for name, value in sampled().items()}
        hold_sampled(named, given, own)
        return given
