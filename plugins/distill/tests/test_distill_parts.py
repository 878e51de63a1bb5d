"""The parts of a student: the low-rank change, the scale as an input, and the copies that set its aims."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from ldm_plugin_distill.config import (
    SCALE,
    ConsistencyConfig,
    EmbeddedConfig,
    LowRankConfig,
    ProgressiveConfig,
    ScaleInputConfig,
)
from ldm_plugin_distill.consistency import Consistency
from ldm_plugin_distill.kept import copied, estimator
from ldm_plugin_distill.low_rank import LowRank
from ldm_plugin_distill.progressive import Progressive
from ldm_plugin_distill.scale_input import ScaleInput, scale_embedding
from ldm_plugin_distill.teacher import Teacher
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.parameterizations import X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.config.structure import structure
from ldm_core.contracts import Accepts, Cond, Conditions, DenoiserConfig, LossContext, Site
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model
from ldm_core.testing.base import randomize, seeded

SCHEDULE = VPSchedule(VPConfig())


class Layers(Denoiser, nn.Module):
    """One layer of each kind that a low-rank change knows, one behind the other, on x (B, 4, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Linear(6, 6)
        self.strided = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, 4, 6, 6) -> F of its shape."""
        h = self.grouped(self.strided(x))
        h = self.linear(h.movedim(1, -1)).movedim(-1, 1) + self.time_embed(noise_level[:, None].expand(-1, 6)).sum()
        return F.interpolate(h, x.shape[2:])


def layers() -> Layers:
    """The same weights each time."""
    with seeded(1):
        return Layers()


def model_of(network: nn.Module, adapters: Any = None) -> Model:
    randomize(network, 1)
    return Model(cast(Any, network), SCHEDULE, X0Parameterization(), None, adapters)


def estimate(model: Any, cond: Cond | None = None) -> Tensor:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return cast(Tensor, model(x, torch.tensor([2.0, 3.0]).double(), cond or Cond()).x0)  # low: no level drowns x


def test_a_low_rank_change_is_two_layers_beside_each() -> None:
    """W + scale B A against B after A by torch's own layers, of a convolution with a stride and one with groups."""
    adapter = LowRank(LowRankConfig(rank=3, scale=0.5))
    network = layers()
    model_of(network, {"low": adapter})
    randomize(adapter, 2)
    x = torch.randn(2, 4, 6, 6)
    down, up = adapter.down["strided"].view(3, 4, 3, 3), adapter.up["strided"].view(8, 3, 1, 1)
    plain = F.conv2d(x, network.strided._parameters["weight"], network.strided.bias, stride=2, padding=1)  # type: ignore[arg-type]
    beside = F.conv2d(F.conv2d(x, down, stride=2, padding=1), up)
    torch.testing.assert_close(network.strided(x), plain + 0.5 * beside)
    h, layer = torch.randn(2, 8, 3, 3), network.grouped
    update = (adapter.up["grouped"] @ adapter.down["grouped"]).view(8, 4, 3, 3)
    want = F.conv2d(h, layer._parameters["weight"] + 0.5 * update, layer.bias, padding=1, groups=2)  # type: ignore[operator]
    torch.testing.assert_close(layer(h), want)
    assert {k: tuple(v.shape) for k, v in adapter.down.items()} == {
        "time_embed": (3, 6), "strided": (3, 36), "grouped": (3, 36), "linear": (3, 8)
    }  # fmt: skip


def test_the_layers_of_a_low_rank_change() -> None:
    wide = LowRank(LowRankConfig(rank=64, targets=("linear", "grouped")))
    model_of(layers(), {"low": wide})
    assert {k: tuple(v.shape) for k, v in wide.up.items()} == {"linear": (4, 4), "grouped": (8, 8)}
    with pytest.raises(ValueError, match="no linear layer or convolution whose name ends in attention"):
        model_of(layers(), {"low": LowRank(LowRankConfig(targets=("attention",)))})
    with pytest.raises(ValueError, match="made for another shape"):
        network = layers()
        network.linear = nn.Linear(8, 3)
        wide.attach(model_of(network))


def test_the_embedding_of_a_scale_is_the_published_one() -> None:
    """That of diffusers' pipeline, by the function that its models share: 1000 times, sines first, half - 1."""
    pytest.importorskip("diffusers")
    from diffusers.models.embeddings import get_timestep_embedding

    scales = torch.tensor([1.0, 2.5, 8.0, 14.0])
    for width in (256, 32):
        want = get_timestep_embedding(1000 * (scales - 1), width, downscale_freq_shift=1)
        torch.testing.assert_close(scale_embedding(scales, width), want, rtol=0, atol=3e-3)
    first = scale_embedding(torch.tensor([1.0, 1.001]), 8)
    assert first[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert first[1, [0, 4]].tolist() == pytest.approx([0.8415, 0.5403], abs=1e-3)


def test_the_scale_reaches_the_level_of_the_network() -> None:
    adapter = ScaleInput(ScaleInputConfig(width=8))
    network = layers()
    model = model_of(network, {"scale": adapter})
    plain = estimate(model.beside({}))
    assert torch.equal(estimate(model, Cond(extras={SCALE: torch.tensor([3.0, 9.0])})), plain), "a fresh one changes"
    randomize(adapter, 2)
    rows = [estimate(model, Cond(options={SCALE: scale})) for scale in (1.0, 4.0)]
    assert torch.equal(rows[0], estimate(model)), "no scale is not a scale of 1"
    mixed = estimate(model, Cond(extras={SCALE: torch.tensor([4.0, 4.0])}))
    torch.testing.assert_close(mixed, rows[1])
    added = F.linear(scale_embedding(torch.tensor([4.0]), 8), adapter.maps["weight"])
    weight = network.time_embed.weight
    shift = F.linear(added - F.linear(scale_embedding(torch.tensor([1.0]), 8), adapter.maps["weight"]), weight)
    change = float(2 * shift.detach().sum())
    assert abs(change) > 0.05
    torch.testing.assert_close(mixed - rows[0], torch.full_like(plain, change), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="no linear layers at 'elsewhere'"):
        model_of(layers(), {"scale": ScaleInput(ScaleInputConfig(at="elsewhere"))})


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (LowRankConfig, {"rank": 0}),
        (ScaleInputConfig, {"width": 7}),
        (EmbeddedConfig, {"scale": 9.0, "trained": [2.0, 8.0]}),
        (EmbeddedConfig, {"trained": [8.0, 2.0]}),
    ],
)
def test_settings_out_of_range_are_refused(config: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        structure(wrong, config, "part")


# ------------------------------------------------------------------------------------------------- scales of examples


class _Reads(DenoiserConfig):
    accepts = Accepts(extras=(SCALE,))


class Answer(Denoiser, nn.Module):
    """x0 is the condition, 1 or 0 everywhere; of a student that reads it, the scale."""

    def __init__(self, student: bool) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.student = student
        self.config = _Reads() if student else None

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w) -> x0."""
        value = cond.extras[SCALE][:, None] if self.student else cast(Tensor, cond.vector)
        return (value + self.shift)[:, :, None, None].expand_as(x)


@pytest.mark.parametrize(
    "objective",
    [
        Consistency(ConsistencyConfig(levels=1, decay=0.0, boundary=0.0, scale=(2.0, 8.0)), Site(size=(2, 2))),
        Progressive(ProgressiveConfig(begin=2, steps=1, decay=0.0, scale=(2.0, 8.0)), Site(size=(2, 2))),
    ],
    ids=["consistency", "progressive"],
)
def test_the_student_is_told_the_scale_that_its_teacher_was_guided_by(objective: Any) -> None:
    """Of a teacher whose guided estimate is the scale itself, a student that answers its scale has no loss."""
    teacher = Model(Answer(False), SCHEDULE, X0Parameterization())
    objective._teacher = [Teacher(teacher, "it", shares=True)]
    student = Model(Answer(True), SCHEDULE, X0Parameterization())
    one, none = Cond(vector=torch.ones(6, 1)), Cond(vector=torch.zeros(6, 1))
    context = LossContext(Conditions({"c": one}, {"c": none}), {}, 0, 10)
    x0 = torch.randn(6, 1, 2, 2)
    for seeds in (range(6), range(20, 26)):
        value = objective.loss(student, x0, one, streams=Streams(seeds), context=context).value.detach()
        assert float(value.max()) < 1e-6
    with torch.no_grad():
        cast(Answer, student.denoiser).shift.add_(1.0)
    value = objective.loss(student, x0, one, streams=Streams(range(6)), context=context).value.detach()
    assert float(value.min()) > 0.1


# -------------------------------------------------------------------------------------------------------------- copies


def student_of() -> tuple[Model, LowRank]:
    adapter = LowRank(LowRankConfig(rank=2))
    model = model_of(layers(), {"low": adapter})
    randomize(adapter, 3)
    cast(nn.Module, model.denoiser).requires_grad_(False)
    return model, adapter


def test_a_copy_of_a_student_with_adapters_stays_as_it_was() -> None:
    model, adapter = student_of()
    kept, before = copied(model), estimate(model)
    assert {name.split("/")[0] for name in kept.kept} == {"adapters"}, "frozen weights are copied"  # type: ignore[union-attr]
    randomize(adapter, 4)
    now = estimate(model)
    assert torch.equal(estimate(estimator(model, kept)), before) and not torch.equal(now, before)
    assert torch.equal(estimate(model), now), "asking the copy changed the student"
    model.train()
    estimate(estimator(model, kept))
    assert cast(nn.Module, model.denoiser).training and not any(p.requires_grad for p in kept.parameters())


def test_the_average_of_a_low_rank_student() -> None:
    """decay 0.75 of a parameter that grows by 1 a step, and what a halving keeps of it."""
    model, adapter = student_of()
    objective = Progressive(ProgressiveConfig(begin=4, steps=1, decay=0.75), Site(size=(6, 6)))
    objective._steps = 4
    objective.target, objective.former = copied(model), copied(model)
    begin, want, kept = adapter.up["linear"].detach().clone(), 0.0, []
    for step in range(4):
        with torch.no_grad():
            for value in adapter.parameters():
                value.add_(1.0)
            objective.after_step(model, step)
        want = 0.75 * want + 0.25 * (step + 1)
        found = cast(Any, objective.target).kept["adapters/low/up/linear"]
        torch.testing.assert_close(found, begin + want)
        kept.append(want)
    assert int(objective.halved) == 1
    torch.testing.assert_close(cast(Any, objective.former).kept["adapters/low/up/linear"], begin + kept[1])
