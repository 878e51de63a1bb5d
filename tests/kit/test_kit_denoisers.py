"""The suite of denoisers: right ones pass, and each mistake fails its test with the contract's line."""

from __future__ import annotations

from typing import ClassVar

import attrs
import pytest
import torch
from planted import Mistake, assert_found, assert_told, faults_of, mistakes
from right_modules import Net, NetConfig
from torch import Tensor, nn

from ldm_core.contracts import BlockSpan, CondSpec, Denoiser, Site, WeightSlice
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import DenoiserSuite


class DeafToVector(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        vector = None if cond.vector is None else torch.zeros_like(cond.vector)
        return super().forward(x, noise_level, cond._replace(vector=vector))


class DeafToNoise(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, torch.ones_like(noise_level), cond)


class IgnoresMask(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond._replace(crossattn_mask=None))


class Idle(Net):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Linear(2, 2)


class Narrow(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond)[:, :1]


class Square(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        out = super().forward(x, noise_level, cond)
        return out[..., : out.shape[2]]


class OneLevel(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level[:1].expand(len(noise_level)), cond)


class WrongPrepare(Net):
    def prepare(self, cond: Cond) -> Cond:
        return cond.map(lambda v: 2 * v if v.is_floating_point() else v)


class RightPrepare(Net):
    def prepare(self, cond: Cond) -> Cond:
        return cond.map(torch.clone)


class Counting(nn.Module):
    """A block that does something else when it is run again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.runs = layer, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.layer(x * self.runs)


class Recomputed(Net):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.last = nn.Sequential(nn.Conv2d(self.mix.out_channels, self.mix.out_channels, 1), nn.Tanh())

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return self.last(super().forward(x, noise_level, cond))

    def recompute_blocks(self) -> list[nn.Module]:
        return [self.last]


class RecomputedCounting(Recomputed):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.last.append(Counting(nn.Tanh()))


class MoreChannels(Net):
    """F, and a variance beside it: allowed."""

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        out = super().forward(x, noise_level, cond)
        return torch.cat([out, out.tanh()], 1)


class LevelsAnywhere(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level * torch.linspace(1, 1, len(x)), cond)


class ScalesInPlace(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x.mul_(0.5), noise_level, cond)


class Cut(Net):
    """F cannot be followed back to x."""

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x.detach(), noise_level, cond)


class NormsTheBatch(Net):
    """A batch norm that keeps no running numbers: rows depend on each other in eval mode, too."""

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.norm = nn.BatchNorm2d(self.mix.out_channels, track_running_stats=False)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return self.norm(super().forward(x, noise_level, cond))


class RecomputesAStranger(Net):
    def recompute_blocks(self) -> list[nn.Module]:
        return [nn.Identity()]


class PreparesInPlace(Net):
    def prepare(self, cond: Cond) -> Cond:
        assert cond.crossattn is not None
        cond.crossattn.mul_(2)
        return cond._replace(crossattn=cond.crossattn / 2)


class WithAddresses(Net):
    """The rows of its last layer, in two halves."""

    places: ClassVar[dict[str, WeightSlice]] = {
        "first": WeightSlice("mix.weight", ((0, 2),)),
        "second": WeightSlice("mix.weight", ((2, 4),)),
    }

    def addresses(self) -> dict[str, WeightSlice]:
        return self.places


class AddressOfNothing(WithAddresses):
    places: ClassVar[dict[str, WeightSlice]] = {"first": WeightSlice("mixer.weight")}


class AddressBeyond(WithAddresses):
    places: ClassVar[dict[str, WeightSlice]] = {"first": WeightSlice("mix.weight", ((2, 5),))}


class AddressesMeet(WithAddresses):
    places: ClassVar[dict[str, WeightSlice]] = {**WithAddresses.places, "third": WeightSlice("mix.weight", ((1, 2),))}


class CallsByClosure(Net):
    """A layer that a function of its own holds."""

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.last = nn.Conv2d(self.mix.out_channels, self.mix.out_channels, 1)
        self.finish = lambda h: self.last(h)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return self.finish(super().forward(x, noise_level, cond))


class NoForward(Denoiser, nn.Module):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__()


class NumbersByDouble(Net):
    """Sines of the noise level in double precision, as numpy makes them."""

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond) + torch.sin(noise_level.double()).view(-1, 1, 1, 1)


@pytest.mark.parametrize("net", [Net, RightPrepare, MoreChannels, Recomputed, WithAddresses])
def test_a_right_denoiser_passes(net: type) -> None:
    assert not faults_of(DenoiserSuite, net, NetConfig)


@attrs.frozen(kw_only=True)
class Tabled(NetConfig):
    max_size: ClassVar[tuple[int, int]] = (6, 8)


class Table(Net):
    """A table of positions, smaller than its config says."""

    rows, columns = 6, 8

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.table = nn.Parameter(torch.zeros(1, 1, self.rows, self.columns))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond) + self.table[..., : x.shape[2], : x.shape[3]]


class ShortTable(Table):
    rows = 5


def test_a_right_table_passes() -> None:
    assert not faults_of(DenoiserSuite, Table, Tabled)


@mistakes(Mistake(ShortTable, "test_takes_every_size_up_to_its_largest", "must match the size of tensor", Tabled))
def test_a_table_smaller_than_it_says_is_found(mistake: Mistake) -> None:
    assert_found(DenoiserSuite, mistake)


@mistakes(
    Mistake(RecomputedCounting, "test_recomputed_blocks_have_equal_gradients", "give other gradients"),
    Mistake(RecomputesAStranger, "test_recomputed_blocks_have_equal_gradients", "a module that is not in the denoiser"),
    Mistake(DeafToVector, "test_every_conditioning_part_matters", "'vector' does not change the output"),
    Mistake(DeafToNoise, "test_the_noise_level_matters", "the noise level does not change the output"),
    Mistake(IgnoresMask, "test_masked_tokens_do_not_matter", "masked tokens of crossattn change the output"),
    Mistake(Idle, "test_gradients_reach_every_parameter", "no gradient reaches idle.weight"),
    Mistake(Cut, "test_gradients_reach_the_input", "no finite gradient with respect to x"),
    Mistake(Narrow, "test_output_shape", "F has 1 channels, x 4"),
    Mistake(Square, "test_output_shape", "F lies on [4, 4], x on [4, 6]"),
    Mistake(OneLevel, "test_mixed_noise_levels_in_one_batch", "swapping the examples does not swap the output"),
    Mistake(OneLevel, "test_an_example_does_not_depend_on_its_batch", "F: example 1 alone"),
    Mistake(NormsTheBatch, "test_an_example_does_not_depend_on_its_batch", "F: example 0 alone"),
    Mistake(WrongPrepare, "test_prepare_changes_nothing", "a prepared bundle gives another output"),
    Mistake(PreparesInPlace, "test_prepare_changes_nothing", "prepare changed the bundle in place"),
    Mistake(LevelsAnywhere, "test_picks_no_device", "torch's mul got a tensor of the default device"),
    Mistake(ScalesInPlace, "test_inputs_stay_unchanged", "changed its inputs in place"),
    Mistake(NumbersByDouble, "test_computes_in_single_precision", "F came out as float64"),
    Mistake(AddressOfNothing, "test_addresses_are_of_weights_that_are_there", "'mixer.weight', which is no parameter"),
    Mistake(AddressBeyond, "test_addresses_are_of_weights_that_are_there", "has row 4 of 4"),
    Mistake(AddressesMeet, "test_addresses_are_of_weights_that_are_there", "share row 1 of 'mix.weight'"),
    Mistake(CallsByClosure, "test_a_copy_of_its_modules_calls_its_own_layers", "calls the original's last"),
    Mistake(NoForward, "test_builds_by_name", ("abstract", "forward")),
)
def test_a_mistake_in_a_denoiser_is_found(mistake: Mistake) -> None:
    assert_found(DenoiserSuite, mistake, NetConfig)


def test_extras_of_a_denoiser_are_tried_too() -> None:
    class WithExtra(Net):
        def __init__(self, config: NetConfig, site: Site) -> None:
            super().__init__(config, site)
            self.from_t5 = nn.Linear(12, 4)

        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            return super().forward(x, noise_level, cond) + self.from_t5(cond.extras["t5"]).mean(1)[..., None, None]

    spec = CondSpec(crossattn=8, extras={"t5": (None, 12)})
    assert not faults_of(DenoiserSuite, WithExtra, NetConfig, cond_spec=spec)
    found = faults_of(DenoiserSuite, Net, NetConfig, cond_spec=spec)
    assert_told(found["test_every_conditioning_part_matters"], "'extras/t5'")


# --------------------------------------------------------------------------------------------- spans that a cache keeps


class WithSpans(Net):
    """Two layers after the net that add to the features."""

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        width = self.mix.out_channels
        self.first, self.second = (nn.Conv2d(width, width, 1) for _ in range(2))
        self.wide = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = super().forward(x, noise_level, cond)
        return h + self.second(self.first(h)) + self.wide(h)[:, : h.shape[1]]

    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([self.first, self.second]), BlockSpan([self.second], residual=True)]


class SpanOfNothing(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([])]


class SpanOfAStranger(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([nn.Identity()])]


class SpansThatGrow(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return super().reusable_spans()[::-1]


class SpanInOtherOrder(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([self.second, self.first])]


class SpanNeverCalled(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([self.first, self.idle])]

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Identity()


class SpanThatWidens(WithSpans):
    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([self.wide], residual=True)]


class SpanOfPairs(WithSpans):
    class Pair(nn.Module):
        def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
            return h, h.tanh()

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.pair = self.Pair()

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return self.pair(super().forward(x, noise_level, cond))[1]

    def reusable_spans(self) -> list[BlockSpan]:
        return [BlockSpan([self.pair])]


class SpanByName(WithSpans):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = Net.forward(self, x, noise_level, cond)
        return h + self.second(input=self.first(h)) + self.wide(h)[:, : h.shape[1]]


class SpanReadInside(WithSpans):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = Net.forward(self, x, noise_level, cond)
        inner = self.first(h)
        return h + inner + self.second(inner) + self.wide(h)[:, : h.shape[1]]


class SpanChangedInPlace(WithSpans):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = Net.forward(self, x, noise_level, cond)
        inner = self.first(h)
        inner += h
        return h + self.second(inner) + self.wide(h)[:, : h.shape[1]]


class LastChangedInPlace(WithSpans):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        h = Net.forward(self, x, noise_level, cond)
        out = self.second(self.first(h))
        out += h
        return out + self.wide(h)[:, : h.shape[1]]


def test_right_spans_pass() -> None:
    assert not faults_of(DenoiserSuite, WithSpans, NetConfig)


@mistakes(
    Mistake(SpanOfNothing, "test_spans_lie_inside_each_other", "span 0 has no blocks"),
    Mistake(SpanOfAStranger, "test_spans_lie_inside_each_other", "span 0 has a module that is not in the denoiser"),
    Mistake(SpansThatGrow, "test_spans_lie_inside_each_other", "span 1 does not lie inside of span 0"),
    Mistake(SpanInOtherOrder, "test_spans_are_called_as_they_say", "called in the order [1, 0]"),
    Mistake(SpanNeverCalled, "test_spans_are_called_as_they_say", "called in the order [0]"),
    Mistake(SpanByName, "test_spans_are_called_as_they_say", "block 1 of span 0 is not handed the features first"),
    Mistake(SpanOfPairs, "test_spans_are_called_as_they_say", "block 0 of span 0 gives tuple"),
    Mistake(
        SpanThatWidens,
        "test_spans_are_called_as_they_say",
        "span 0 is residual, takes [2, 4, 4, 4], gives [2, 8, 4, 4]",
    ),
    Mistake(SpanReadInside, "test_spans_are_read_at_their_ends", "F has other bits"),
    Mistake(SpanChangedInPlace, "test_spans_are_read_at_their_ends", "without span 0, forward fails"),
    Mistake(LastChangedInPlace, "test_spans_are_read_at_their_ends", "F has other bits"),
)
def test_a_mistake_in_spans_is_found(mistake: Mistake) -> None:
    assert_found(DenoiserSuite, mistake, NetConfig)
