"""The adversarial objective: its discriminator, its loss in closed form, and a toy that a mean cannot solve."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from ldm_plugin_distill.adversarial.discriminator import Discriminator
from ldm_plugin_distill.adversarial.features import Features
from ldm_plugin_distill.adversarial.objective import Adversarial
from ldm_plugin_distill.config import AdversarialConfig
from ldm_plugin_distill.teacher import Teacher
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.parameterizations import X0Parameterization
from ldm_core.contracts import Cond, Conditions, LatentSpec, LossContext, Site
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model
from ldm_core.testing.base import seeded
from ldm_core.testing.gaussian import FlowSchedule

SITE = Site(size=(2, 2), latent=LatentSpec(channels=1, stride=(1, 1)))
LN2 = math.log(2)


class Network(Denoiser, nn.Module):
    """x (B, 1, 2, 2) -> x0: two layers of 16 over the places' values, the noise level and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(2, 16, 1), nn.Conv2d(16, 16, 2, padding=1), nn.Conv2d(16, 16, 2)])
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """See the class."""
        h = torch.cat([x, noise_level.to(x)[:, None, None, None].expand_as(x)], 1)
        for block in self.blocks:
            h = torch.tanh(block(h))
        return cast(Tensor, self.out(h))


class Constant(Denoiser, nn.Module):
    """x0 is one number; its layer of features is the latents."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *s) -> the number everywhere."""
        return self.value.expand_as(self.blocks[0](x))


def of(network: nn.Module) -> Model:
    return Model(cast(Any, network), FlowSchedule(), X0Parameterization())


def prepared(student: Model, teacher: Model, **settings: Any) -> Adversarial:
    """The objective with a teacher at hand."""
    objective = Adversarial(AdversarialConfig(**settings), SITE)
    kept = Teacher(teacher, "it", shares=True)
    with seeded(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "of", lambda config, site, model: kept)
        objective.prepare(student)
    return objective


def loss(objective: Adversarial, student: Model, x0: Tensor, first: int = 0) -> Any:
    bundle = Cond()
    context = LossContext(Conditions({}, {}), {}, 0, 10)
    streams = Streams(range(first, first + len(x0)))
    return objective.loss(student, x0, bundle, streams=streams, context=context)


def test_a_discriminator_that_says_nothing_has_a_known_loss() -> None:
    """Logits of 0: 2 ln 2 of its own, ln 2 of the student; and the distance from the data."""
    student = of(Constant(0.25))
    objective = prepared(student, of(Network()), weight=0.5, distillation=0.0, data=3.0)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    found = loss(objective, student, torch.ones(4, 1, 2, 2))
    torch.testing.assert_close(found.value.detach(), torch.full((4,), 2.5 * LN2 + 3 * 0.75))
    assert set(found.logs) == {"judged_right", "off_data"}


def test_the_distance_from_the_teachers_estimate() -> None:
    """Of a teacher that says 1 and a student that says 0.5 it is alpha / 4: 1/8 on average, as alpha is 1 - t."""
    student = of(Constant(0.5))
    objective = prepared(student, of(Constant(1.0)), weight=0.0)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    found = loss(objective, student, torch.zeros(2048, 1, 2, 2))
    far = found.value.detach() - 2 * LN2
    torch.testing.assert_close(far, found.logs["distance"], rtol=1e-4, atol=1e-5)
    assert float(far.min()) >= 0 and float(far.max()) <= 0.25
    assert abs(float(far.mean()) - 0.125) < 4 * (0.25 / 12**0.5) / 2048**0.5


def test_each_learns_from_its_own_loss_alone() -> None:
    """The discriminator's gradient is the same under any weight of its opinion, and none of it reaches the student."""
    x0, kept = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), {}
    for weight in (0.0, 5.0):
        with seeded(2):
            student, teacher = of(Network()), of(Network())
        objective = prepared(student, teacher, weight=weight, distillation=0.0)
        loss(objective, student, x0).value.mean().backward()
        mine = [p.grad for p in cast(nn.Module, student.denoiser).parameters()]
        kept[weight] = ([p.grad for p in objective.parameters()], mine)
        assert all(p.grad is None for p in cast(nn.Module, teacher.denoiser).parameters() if not p.requires_grad)
    for one, other in zip(kept[0.0][0], kept[5.0][0], strict=True):
        assert one is not None and other is not None and torch.equal(one, other)
    assert all(g is None or not bool(g.any()) for g in kept[0.0][1])
    assert all(g is not None and bool(g.any()) for g in kept[5.0][1])


@pytest.mark.parametrize("rate", [1.0, 20.0])
def test_the_heads_learn_at_a_rate_of_their_own(rate: float) -> None:
    """Adam's first step moves each weight by the learning rate; the weight that counts moves by `rate` times that."""
    with seeded(1):
        made = Discriminator([3], 5, rate)
    layer: Any = made.heads[0][1]  # type: ignore[index]
    before = (layer.weight * rate).detach().clone()
    assert abs(float(before.std()) - 3**-0.5) < 0.2, "the weights that count begin at 1 / sqrt(inputs)"
    made([torch.randn(4, 7, 3)]).sum().backward()
    torch.optim.Adam(made.parameters(), 1e-3).step()
    moved = ((layer.weight * rate).detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, rate * 1e-3), rtol=2e-2, atol=0)


def test_pictures_in_the_place_of_their_mean() -> None:
    """Data is 1 or -1, and one step has to make it from noise: the mean is 0, and the discriminator takes an end alone.

    The end may be the same for all noise: nothing in the loss asks for both.
    """
    torch.set_num_threads(1)
    signs = lambda n, g: (torch.randint(0, 2, (n, 1, 1, 1), generator=g) * 2.0 - 1).expand(n, 1, 2, 2)  # noqa: E731
    random = torch.Generator().manual_seed(0)
    with seeded(3):
        student, teacher = of(Network()), of(Network()).requires_grad_(False)
    objective = prepared(student, teacher, steps=1, weight=1.0, distillation=0.0, rate=5.0, noise=-2.0)
    parts = [*cast(nn.Module, student.denoiser).parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parts, 4e-3, (0.5, 0.99))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    for step in range(200):
        optimizer.zero_grad()
        loss(objective, student, signs(16, random), first=16 * step).value.mean().backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        made = student(torch.randn(256, 1, 2, 2, generator=random), torch.ones(256).double(), Cond()).x0.mean((1, 2, 3))
    assert 0.75 < float(made.abs().mean()) < 1.25, made.flatten()[:8]


def test_the_layers_that_are_looked_at() -> None:
    model = of(Network())
    found = Features(model, SITE)
    assert (found.names, found.widths) == (["blocks.0", "blocks.1", "blocks.2"], [16, 16, 16])
    assert Features(model, SITE, ["out"]).widths == [1]
    x, t = torch.randn(3, 1, 2, 2), torch.full((3,), 0.5).double()
    network = cast(Network, model.denoiser)
    seen = found(x, t, Cond())
    c_in = X0Parameterization().coefficients(*(f(t[:1]) for f in (FlowSchedule().alpha, FlowSchedule().sigma)))[2]
    level = FlowSchedule().noise_level(t).float()[:, None, None, None].expand_as(x)
    first = network.blocks[0](torch.cat([x * c_in.float(), level], 1))
    torch.testing.assert_close(seen[0], first.flatten(2).transpose(1, 2))
    assert [each.shape for each in seen] == [(3, 4, 16), (3, 9, 16), (3, 4, 16)]
    with pytest.raises(ConfigError, match=r"no layer 'block.9'; its blocks are blocks.0, blocks.1, blocks.2"):
        Features(model, SITE, ["block.9"])
    with pytest.raises(ConfigError, match="gives no features"):
        Features(model, SITE, ["blocks"])
