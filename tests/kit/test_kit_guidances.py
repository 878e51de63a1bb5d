"""The suites of guidances and objectives: right ones pass, and each mistake fails its test with the contract's line."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from planted import Empty, Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn

from ldm_core.contracts import Estimate, Guidance, LossOutput, NoiseSchedule, Objective
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import per_example
from ldm_core.testing import GuidanceSuite, ObjectiveSuite

# --------------------------------------------------------------------------------------------------- guidance


@attrs.frozen(kw_only=True)
class Scaled:
    scale: float = 3.0
    needs_null: bool = True


class Right(Guidance):
    def __init__(self, config: Any, site: Any) -> None:
        self.scale = config.scale

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule) -> Estimate:
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        return Estimate(self.mix(null.x0, cond.x0))

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return null + self.scale * (cond - null)


class OffByOne(Right):
    """The other convention, in which scale 0 is conditional."""

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return cond + self.scale * (cond - null)


class Detached(Right):
    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return super().mix(null, cond).detach()


class BatchStatistics(Right):
    """Rescales by the standard deviation of the whole batch instead of each example's."""

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        mixed = super().mix(null, cond)
        return mixed * cond.std() / mixed.std()


class StacksByItself(Right):
    """Doubles the batch, as published code does, though the core stacks the branches."""

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        both = torch.cat([x, x])
        null, cond = predict(both, torch.cat([t, t]), [conditions.null, conditions.cond])
        return Estimate(self.mix(null.x0[: len(x)], cond.x0[len(x) :]))


class HalfPrecision(Right):
    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return super().mix(null, cond).bfloat16()


class BareTensor(Right):
    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Any:
        return super().guide(predict, x, t, conditions, schedule).x0


class NoNull(Right):
    """Drops the condition by zeros of its own, so that a negative prompt does nothing."""

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        null, cond = predict(x, t, [conditions.cond.map(torch.zeros_like), conditions.cond])
        return Estimate(self.mix(null.x0, cond.x0))


class Thresholds(Right):
    """Clips x0 as pixels are clipped, whatever the scale."""

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        mixed = super().mix(null, cond)
        return mixed.clamp(-0.5, 0.5)


class WithoutScale(Right):
    """Leaves out the doubled batch at scale 1, and forgets the condition too."""

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        if self.scale == 1:
            return predict(x, t, [conditions.null])[0]
        return super().guide(predict, x, t, conditions, schedule)


@attrs.frozen(kw_only=True)
class SaysItNeedsNone(Scaled):
    needs_null: bool = False


@attrs.frozen(kw_only=True)
class SaysNothing:
    scale: float = 3.0


@attrs.frozen(kw_only=True)
class WithInterval(Scaled):
    interval: tuple[float, float | None] | None = None


class ReadsAPicture(Right):
    """Pulls the estimate by a number of each picture."""

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        level = conditions.batch["level"].view(-1, 1, 1, 1)
        return Estimate(super().guide(predict, x, t, conditions, schedule).x0 + 0 * level)


@attrs.frozen(kw_only=True)
class SaysLevel(Scaled):
    @property
    def reads(self) -> tuple[str, ...]:
        return ("level",)


class WithLevels(GuidanceSuite):
    """A run whose batch has a number of each picture."""

    def inputs(self, rows: Any, size: Any) -> dict[str, Any]:
        found = super().inputs(rows, size)
        return {**found, "batch": {**found["batch"], "level": torch.tensor([float(i) for i in rows])}}


def test_a_right_guidance_passes() -> None:
    assert not faults_of(GuidanceSuite, Right, Scaled)
    assert not faults_of(WithLevels, ReadsAPicture, SaysLevel)


@mistakes(
    Mistake(ReadsAPicture, "test_reads_what_it_declares", "guide takes level, not in reads"),
    Mistake(Right, "test_reads_what_it_declares", "reads names level, never taken from the batch", SaysLevel),
)
def test_a_mistake_in_what_a_guidance_reads_is_found(mistake: Mistake) -> None:
    assert_found(WithLevels, mistake, Scaled)


@mistakes(
    Mistake(OffByOne, "test_scale_0_is_the_unconditional_estimate", "scale 0 is off by"),
    Mistake(OffByOne, "test_scale_1_is_the_conditional_estimate", "scale 1 is off by"),
    Mistake(WithoutScale, "test_scale_1_is_the_conditional_estimate", "scale 1 is off by"),
    Mistake(Thresholds, "test_scale_1_is_the_conditional_estimate", "scale 1 is off by"),
    Mistake(StacksByItself, "test_predict_is_called_with_the_batch", "predict is called with rows (6, (6,), 3, 3)"),
    Mistake(HalfPrecision, "test_shape_and_dtype", "x0 is torch.bfloat16, not float32"),
    Mistake(BareTensor, "test_shape_and_dtype", "guide returned Tensor, not an Estimate"),
    Mistake(NoNull, "test_another_null_is_another_estimate", "the estimate does not depend on the nulls"),
    Mistake(Detached, "test_gradients_pass", "the estimate has no gradient"),
    Mistake(BatchStatistics, "test_an_example_does_not_depend_on_its_batch", "x0: example 0 alone"),
    Mistake(Right, "test_needs_null_is_true", "needs_null is False, yet a branch", SaysItNeedsNone),
    Mistake(Right, "test_needs_null_is_true", "needs_null is False, yet a branch", SaysNothing),
    Mistake(
        Right, "test_outside_its_interval_it_evaluates_the_conditional_branch_alone", "evaluated outside", WithInterval
    ),
)
def test_a_mistake_in_a_guidance_is_found(mistake: Mistake) -> None:
    assert_found(GuidanceSuite, mistake, Scaled)


# ------------------------------------------------------------------------------------------------- objectives


class EpsLoss(Objective):
    def __init__(self, config: Any, site: Any) -> None:
        pass

    def loss(self, model: Any, x0: Tensor, cond: Any, *, streams: Streams) -> LossOutput:
        t = model.schedule.draw(self.uniform(streams, x0.shape[0]).double()).clamp(max=0.97 * model.schedule.t_max)
        eps = self.noise(streams, x0)
        x = per_example(model.schedule.alpha(t), x0) * x0 + per_example(model.schedule.sigma(t), x0) * eps
        value = self.reduce((model(x, t, cond).x0 - x0).square())
        return LossOutput(value, {"x0": self.log(value)})

    def uniform(self, streams: Streams, count: int) -> Tensor:
        return streams.uniform((count,))

    def noise(self, streams: Streams, x0: Tensor) -> Tensor:
        return streams.normal(x0.shape)

    def reduce(self, error: Tensor) -> Tensor:
        return error.flatten(1).mean(1)

    def log(self, value: Tensor) -> Tensor:
        return value.detach()


class GlobalNoise(EpsLoss):
    def noise(self, streams: Streams, x0: Tensor) -> Tensor:
        return torch.randn_like(x0)


class OneTime(EpsLoss):
    def uniform(self, streams: Streams, count: int) -> Tensor:
        return streams.uniform((count,))[:1].expand(count)


class OneValue(EpsLoss):
    def reduce(self, error: Tensor) -> Tensor:
        return error.mean()


class GraphInLogs(EpsLoss):
    def log(self, value: Tensor) -> Tensor:
        return value


class HalfValues(EpsLoss):
    def reduce(self, error: Tensor) -> Tensor:
        return error.flatten(1).mean(1).bfloat16()


class Weightless(EpsLoss):
    """Works on what the model says without letting a gradient through."""

    def reduce(self, error: Tensor) -> Tensor:
        return error.detach().flatten(1).mean(1)


class SignedError(EpsLoss):
    """Forgets the square: errors cancel, and a loss may be negative."""

    def reduce(self, error: Tensor) -> Tensor:
        return (error - error.mean()).flatten(1).sum(1)


class Dictionary(EpsLoss):
    def loss(self, model: Any, x0: Tensor, cond: Any, *, streams: Streams) -> Any:
        return {"loss": super().loss(model, x0, cond, streams=streams).value}


class FixedNoise(EpsLoss):
    """A generator of its own, the same at each call."""

    def uniform(self, streams: Streams, count: int) -> Tensor:
        return torch.rand(count, generator=torch.Generator().manual_seed(0))

    def noise(self, streams: Streams, x0: Tensor) -> Tensor:
        return torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))


class IgnoresTheCondition(EpsLoss):
    def loss(self, model: Any, x0: Tensor, cond: Any, *, streams: Streams) -> LossOutput:
        return super().loss(model, x0, cond.map(torch.detach), streams=streams)


class WideLogs(EpsLoss):
    def log(self, value: Tensor) -> Tensor:
        return value.detach()[:, None].expand(-1, 4)


@attrs.frozen(kw_only=True)
class InContext(Empty):
    needs_context: ClassVar[bool] = True


class Slow(EpsLoss, nn.Module):
    """A slow copy of the network's last bias, and a trained scale of the loss."""

    slow: Tensor

    def __init__(self, config: Any, site: Any) -> None:
        nn.Module.__init__(self)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("slow", torch.zeros(4))

    def prepare(self, model: Any) -> None:
        self.slow.copy_(model.denoiser.mix.bias.detach())

    def loss(self, model: Any, x0: Tensor, cond: Any, *, streams: Streams, context: Any = None) -> LossOutput:
        out = super().loss(model, x0, cond, streams=streams)
        assert context.conditions.null is not None and context.step < context.steps
        return out._replace(value=out.value * self.scale**2 + self.learned().square().mean())

    def learned(self) -> Tensor:
        return self.slow

    def after_step(self, model: Any, step: int) -> None:
        self.slow.lerp_(model.denoiser.mix.bias, 0.5)


class PushesTheModel(Slow):
    def after_step(self, model: Any, step: int) -> None:
        model.denoiser.mix.bias.mul_(0.9)


class ClearsGradients(Slow):
    def after_step(self, model: Any, step: int) -> None:
        for parameter in model.parameters():
            parameter.grad = None


class PullsItsOwnWeights(Slow):
    def after_step(self, model: Any, step: int) -> None:
        self.scale.clamp_(max=0.5)


class DrawsAfterwards(Slow):
    def after_step(self, model: Any, step: int) -> None:
        self.slow.add_(torch.randn(4))


class GivesItsOwnName(Slow):
    def sampled(self) -> dict[str, Tensor]:
        return {"mix.bias": self.slow}


class GivesAnotherShape(Slow):
    def sampled(self) -> dict[str, Tensor]:
        return {"denoiser.mix.bias": self.slow[:2]}


class LearnsInAnAttribute(Slow):
    """A tensor that no state dict holds."""

    def prepare(self, model: Any) -> None:
        self.kept = model.denoiser.mix.bias.detach().clone()

    def learned(self) -> Tensor:
        return self.kept

    def after_step(self, model: Any, step: int) -> None:
        self.kept = self.kept.lerp(model.denoiser.mix.bias, 0.5)


def test_a_right_objective_passes() -> None:
    assert not faults_of(ObjectiveSuite, EpsLoss)
    assert not faults_of(ObjectiveSuite, Slow, InContext)


@mistakes(
    Mistake(PushesTheModel, "test_after_step_changes_its_own_state_alone", "changes the model's weights", InContext),
    Mistake(ClearsGradients, "test_after_step_changes_its_own_state_alone", "changes the model's gradients", InContext),
    Mistake(PullsItsOwnWeights, "test_after_step_changes_its_own_state_alone", "trained parameters", InContext),
    Mistake(DrawsAfterwards, "test_after_step_changes_its_own_state_alone", "global generator of torch", InContext),
    Mistake(GivesItsOwnName, "test_gives_weights_of_the_models_names", "is no name of the model's", InContext),
    Mistake(GivesAnotherShape, "test_gives_weights_of_the_models_names", "has shape (2,), the model's (4,)", InContext),
    Mistake(LearnsInAnAttribute, "test_goes_on_from_its_state", "has another loss", InContext),
)
def test_a_mistake_in_an_objective_with_a_state_is_found(mistake: Mistake) -> None:
    assert_found(ObjectiveSuite, mistake)


@mistakes(
    Mistake(GlobalNoise, "test_leaves_the_global_generators_alone", "the global generator of torch"),
    Mistake(GlobalNoise, "test_draws_from_the_streams", "the loss of example 0 changed with the stream of example 1"),
    Mistake(FixedNoise, "test_draws_from_the_streams", "another stream gave the same loss"),
    Mistake(OneTime, "test_an_example_does_not_depend_on_its_batch", "value: example 1 alone"),
    Mistake(OneValue, "test_a_loss_for_each_example", "value has shape (), not (B,) = (3,)"),
    Mistake(HalfValues, "test_a_loss_for_each_example", "value is torch.bfloat16"),
    Mistake(SignedError, "test_a_loss_for_each_example", "a loss is negative or not finite"),
    Mistake(Dictionary, "test_a_loss_for_each_example", "loss returned dict, not a LossOutput"),
    Mistake(Weightless, "test_gradients_reach_the_model", "does not require grad"),
    Mistake(IgnoresTheCondition, "test_gradients_reach_the_model", "no gradient reaches the conditioning"),
    Mistake(GraphInLogs, "test_logs_are_detached", "log 'x0' holds the graph"),
    Mistake(WideLogs, "test_logs_are_detached", "log 'x0' has shape (3, 4)"),
)
def test_a_mistake_in_an_objective_is_found(mistake: Mistake) -> None:
    assert_found(ObjectiveSuite, mistake)
