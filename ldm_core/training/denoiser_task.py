"""Training the model: denoiser and trainable conditioners together, on latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import Batch, FirstStage, LossOutput, Objective
from ldm_core.diffusion import Model
from ldm_core.recipe import Recipe
from ldm_core.streams import Streams
from ldm_core.training.ema import EMA
from ldm_core.training.engine import Part
from ldm_core.training.loader import MicroBatch
from ldm_core.training.world import World


class DiffusionLoss(nn.Module):
    """Model and objective in one module, so that an engine sees every parameter: ``forward`` encodes the conditions,
    drops some, and returns the loss per example."""

    def __init__(self, model: Model, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self._rates = {c.name: c.dropout for c in recipe.conditioners}
        self._joint = recipe.trainer.joint_dropout
        self._frozen = [c.name for c in recipe.conditioners if not c.train]

    def train(self, mode: bool = True) -> DiffusionLoss:
        """As a module's; frozen conditioners stay in eval mode."""
        super().train(mode)
        for name in self._frozen:
            self.model.conditioners[name].eval()
        return self

    def forward(self, x0: Tensor, batch: Batch, seeds: Sequence[int]) -> LossOutput:
        """x0 (B, C, *s) normalised latents -> a loss per example (B,)."""
        streams = Streams(seeds, x0.device)
        cond = self.model.dropped(batch, self._rates, self._joint, streams)
        return self.objective.loss(self.model, x0, cond, streams=streams)


class DenoiserTask:
    """One part, ``model``; its latents come from cached moments (batch key ``moments``) or from the images."""

    stage = "denoiser"

    def __init__(self, model: Model, objective: Objective, stage: FirstStage, recipe: Recipe, world: World) -> None:
        self._recipe, self._first_stage = recipe, stage
        model.precision = recipe.trainer.precision
        self._loss = DiffusionLoss(model, objective, recipe)
        self._loss.train()
        self.ema: EMA | None = None
        networks = [cast(nn.Module, model.denoiser)]
        self.parts: Sequence[Part] = [
            Part("model", self._loss, recipe.trainer, world, "trainer", networks=networks)
        ]
        if recipe.trainer.ema:
            self.ema = EMA(self._loss, recipe.trainer.ema)
        self.part_steps = {"model": 0}

    def prepare(self, start: int) -> None:
        """Nothing to prepare: the conditioners were fitted before the model was built."""

    @torch.no_grad()
    def _latents(self, batch: Batch, seeds: Sequence[int]) -> Tensor:
        moments = batch.get("moments")
        if moments is None:
            moments = self._first_stage.encode_moments(batch["image"])
        return self._first_stage.latents(moments.float(), streams=Streams(seeds, moments.device))

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One optimizer step over the micro-batches."""
        part, seed = self.parts[0], self._recipe.seed
        logs: dict[str, Any] = {}
        for micro in micros:
            x0 = self._latents(micro.batch, micro.seeds(seed, "latents"))
            out = part.engine(x0, micro.batch, micro.seeds(seed, "diffusion"))
            loss = out.value.mean()
            part.backward(loss)
            norm = part.step(measure=measure)
            for key, value in {"loss": loss.detach(), **out.logs}.items():
                logs[key] = logs.get(key, 0.0) + value.detach().mean() / len(micros)
            if norm is not None:
                logs["grad_norm"] = norm
        self.part_steps["model"] += 1
        return logs

    def weights(self) -> dict[str, Tensor]:
        """The model's weights to sample with: averaged where an average is kept."""
        state = self.ema.state(self._loss) if self.ema else self._loss.state_dict()
        prefix = "model."
        return {k.removeprefix(prefix): v.detach().cpu() for k, v in state.items() if k.startswith(prefix)}
