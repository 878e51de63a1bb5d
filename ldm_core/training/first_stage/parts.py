"""The modules of first-stage training: a part for the stage with its losses, and one for each opponent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    AuxiliaryLossConfig,
    FirstStageAnswers,
    PartAnswers,
    StageBatch,
    StageLoss,
    TrainableStage,
)
from ldm_core.contracts.configs import of
from ldm_core.contracts.values import Precision
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.model.arithmetic import arithmetic
from ldm_core.recipe.recipe import Part as RecipePart
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World

_MOST, _LEAST = 1e4, 1e-4  # of an adaptive weight, and beside a norm of 0
_MOMENTS = ("exp_avg", "exp_avg_sq")


def trainable(stage: nn.Module) -> TrainableStage:
    """`stage`, known to have a training pass; ConfigError if it has none."""
    if not isinstance(stage, TrainableStage):
        raise ConfigError(
            f"first stage {type(stage).__name__} cannot be trained: it has no reconstruct, a training pass "
            "(ldm_core.contracts.TrainableStage says what it is). Offer it, or use a trained first stage "
            "(first_stage=PATH)"
        )
    return stage


class Losses(nn.Module):
    """The stage's own loss: the objective's, and the auxiliary ones beside it.

    `first_stage` is registered, and so are the children, parameters and buffers of an objective that is a module, under
    their own names; the table of buffers is the objective's own, so that those that it replaces, or makes later, are in
    checkpoints. ``auxiliary`` holds the auxiliary losses that are modules. Raises ConfigError for an adaptive
    weight at a layer that the stage does not name, ComponentError for an objective that registers what is not its own.
    """

    def __init__(
        self,
        stage: nn.Module,
        objective: Any,
        others: Mapping[str, tuple[RecipePart, Any]],
        average: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.first_stage = stage
        self._objective = (objective,)  # in a tuple, so that nn.Module does not see it
        self._others, self._average = others, average
        self.scale: Callable[[], float] = lambda: 1.0
        """The factor of the loss in the backward pass: fp16's, whose small gradients would be 0 without it."""
        if isinstance(objective, nn.Module):
            self._take(objective)
        self.auxiliary = nn.ModuleDict({k: m for k, (_, m) in others.items() if isinstance(m, nn.Module)})
        self._layer = (of(FirstStageAnswers, stage).encoder_layer,)
        adaptive = [k for k, (part, _) in others.items() if of(AuxiliaryLossConfig, part.config).adaptive]
        if adaptive and self._layer[0] is None:
            raise ConfigError(
                f"auxiliary_losses: '{adaptive[0]}' has an adaptive weight, and first stage {type(stage).__name__} "
                "names no encoder_layer, at which gradients are compared; set adaptive=false, or name it in the stage"
            )

    def _take(self, objective: nn.Module) -> None:
        shared = {id(p) for p in self.first_stage.parameters()} & {id(p) for p in objective.parameters()}
        own = {*dict(objective.named_children()), *objective._parameters, *objective._buffers}
        if shared or own & {"first_stage", "auxiliary"}:
            raise ComponentError(
                f"stage objective {type(objective).__name__} registers what is not its own: hold the stage and what is "
                "borrowed unregistered, and call no child first_stage or auxiliary"
            )
        for name, child in objective.named_children():
            self.add_module(name, child)
        for name, parameter in objective._parameters.items():
            self.register_parameter(name, parameter)
        self._buffers, self._non_persistent_buffers_set = objective._buffers, objective._non_persistent_buffers_set

    def forward(self, batch: StageBatch) -> StageLoss:
        """The whole loss of a micro-batch."""
        out: StageLoss = self._objective[0].loss(self.first_stage, batch)
        if not self._others:
            return out
        if out.reconstruction is None or out.reconstruction.z is None:
            whose = self._objective[0] if out.reconstruction is None else self.first_stage
            lacks = "StageLoss.reconstruction" if out.reconstruction is None else "Reconstruction.z"
            raise ConfigError(f"auxiliary_losses: {type(whose).__name__} gives no {lacks}, which they are taken of")
        value, logs = out.value, dict(out.logs)
        for name, (part, other) in self._others.items():
            term = other.loss(batch.images, out.reconstruction.z, out.reconstruction).float()
            answers = of(AuxiliaryLossConfig, part.config)
            logs[name] = term.detach()
            weight = torch.tensor(float(answers.weight), device=term.device)
            if answers.adaptive and torch.is_grad_enabled():
                weight = weight * self._ratio(out.value, term)
                logs[f"{name}_weight"] = weight
            value = value + weight * term
        return out._replace(value=value, logs={**logs, "loss": value.detach()})

    def _ratio(self, value: Tensor, term: Tensor) -> Tensor:
        """The ratio () of two losses' gradients at the encoder's last layer, each averaged over processes.

        Under a loss scale they are scaled as in the backward pass. If the scale is too large for one of them, it is 1:
        that pass then overflows too, the step is dropped, and the scale is lowered.
        """
        scale, layer = self.scale(), self._layer[0]
        scaled = [each * scale for each in (value, term)]
        found = [torch.autograd.grad(each, layer, retain_graph=True)[0].float() for each in scaled]  # type: ignore[arg-type]
        norms = torch.linalg.vector_norm(self._average(torch.stack(found) / scale).flatten(1), dim=1)
        ratio = (norms[0] / (norms[1] + _LEAST)).clamp(0.0, _MOST)
        return ratio if scale == 1.0 else torch.where(norms.isfinite().all(), ratio, 1.0)


class Autocast(nn.Module):
    """A part's loss with its networks under autocast; the loss itself is float32."""

    def __init__(self, loss: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.loss, self._precision = loss, precision

    def forward(self, *args: Any) -> Any:
        """As the loss's."""
        with self.casting():
            return self.loss(*args)

    def casting(self) -> torch.autocast:
        """The context of the part's arithmetic."""
        return arithmetic(next(self.parameters()).device.type, self._precision)


class Training:
    """The training as an objective may use it: :class:`ldm_core.contracts.StageTraining`."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        first_images: Callable[[int], Iterable[Tensor]],
        taken: Callable[[str], bool] = lambda prefix: False,
        say: Callable[[str, str], None] = lambda text, level: None,
    ) -> None:
        self.steps, self.seed = recipe.first_stage_trainer.steps, recipe.seed
        self.stage_config = recipe.first_stage.config
        self.device, self.processes = world.device, world.size
        self.average, self.sum, self.gather = world.average, world.sum, world.gather
        self.first_images, self.taken = first_images, taken
        self._world, self._say = world, say
        self.part: Part | None = None
        """The stage's, once it is made."""

    def say(self, text: str, level: str = "info") -> None:
        """Tell the user."""
        self._say(text, level)

    def rewritten(self, module: nn.Module, rows: Tensor | None = None) -> None:
        """Share parameters written in place: sums on a GPU differ in the last bits, and once unequal weights stay so;
        ZeRO has copies of its own."""
        assert self.part is not None
        for parameter in module.parameters():
            parameter.data.copy_(self._world.broadcast(parameter.data))
        self.part.adopt(module)
        if rows is not None:
            self._forget(self.part, module, rows)

    @staticmethod
    def _forget(part: Part, module: nn.Module, rows: Tensor) -> None:
        """Clear the optimizer's state of rows (N,): their past gradients were for other values."""
        for parameter in module.parameters():
            if parameter.shape[:1] != rows.shape or not parameter.requires_grad:
                continue
            for key in _MOMENTS:
                if part.settings.zero:
                    from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state

                    value = safe_get_full_optimizer_state(parameter, key)
                    if value is not None:
                        value[rows] = 0.0
                        safe_set_full_optimizer_state(parameter, value, key)
                elif key in (own := part.engine.optimizer.state.get(parameter, {})):
                    own[key][rows] = 0.0


def networks(stage: nn.Module) -> Sequence[nn.Module]:
    """The stage's recomputable parts, or all of its parts if it names none; codebooks stay as they are."""
    parts = list(stage.children())
    return [p for p in parts if of(PartAnswers, p).recompute_blocks is not None] or parts
