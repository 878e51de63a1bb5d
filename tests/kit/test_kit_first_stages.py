"""The suite of first stages: a right stage passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from planted import Mistake, assert_found, faults_of, mistakes
from right_modules import Stage, StageConfig
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import FirstStage, LatentSpec, Site
from ldm_core.contracts.streams import Streams
from ldm_core.testing import FirstStageSuite


class Crops(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class OtherChannels(Stage):
    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.latent = LatentSpec(config.channels + 1, (4, 4))


class NoisyMoments(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return super().encode_moments(x + 0.1 * torch.randn_like(x))


class GlobalLatents(Stage):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return torch.randn_like(like)


class HalfNormalized(Stage):
    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z * self.std.view(-1, 1, 1))


class NormalizedMoments(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return super().encode_moments(x) / self.std.repeat(2).view(-1, 1, 1)


class Forgetful(Stage):
    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        del self._buffers["mean"], self._buffers["std"]
        self.mean, self.std = mean, std


class BatchCentred(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return super().encode_moments(x - x.mean(0))


class InPlace(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return super().encode_moments(x.mul_(0.5))


class Detached(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().encode_moments(x)

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z).detach()


class FreezesItself(Stage):
    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.requires_grad_(False)


class SwitchesMode(Stage):
    def decode(self, z: Tensor) -> Tensor:
        self.decoder.eval()
        return super().decode(z)


class Drifts(Stage):
    def project(self, z: Tensor) -> Tensor:
        return 0.9 * z


class Counts(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        self.mean.add_(0.1)
        return super().encode_moments(x)


class LooseState(Stage):
    def get_extra_state(self) -> Any:
        return {"codes": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


class DoubleLatents(Stage):
    def latents(self, moments: Tensor, *, streams: Any = None) -> Tensor:
        return super().latents(moments, streams=streams).double()

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z.float())


class StatisticsAnywhere(Stage):
    def latents(self, moments: Tensor, *, streams: Any = None) -> Tensor:
        return super().latents(moments, streams=streams) * torch.tensor([1.0, 1.0, 1.0]).view(-1, 1, 1)


class RefusesInItsOwnWay(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 4 == 0 and x.shape[3] % 4 == 0, "bad size"
        return self.encoder(x)


class KeepsItsCodesToItself(Stage):
    """A table of numbers that no state dict holds."""

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.offset = torch.randn(config.channels, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z + self.offset)


class DropsOutWhenItSamples(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return F.dropout(super().encode_moments(x), 0.1)


class DrawsInTheMode(Stage):
    """The usual sample of a posterior, drawn even where the mode is asked for."""

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        mean, logvar = moments.chunk(2, 1)
        return super().latents(torch.cat([mean + (0.5 * logvar).exp() * torch.randn_like(mean), logvar], 1))


class LosesAStride(Stage):
    """Decodes to half the size."""

    def decode(self, z: Tensor) -> Tensor:
        return F.avg_pool2d(super().decode(z), 2)


class InBytes(Stage):
    """Pictures from 0 to 255."""

    def decode(self, z: Tensor) -> Tensor:
        return (super().decode(z) + 1) * 127.5


class ClaimsAnotherStride(Stage):
    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.latent = LatentSpec(config.channels, (8, 8))


class InHalves(Stage):
    """Each half of a large picture by itself: right for a stage that sees 4 x 4 pixels at a time."""

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        return torch.cat([self.decode(half) for half in z.chunk(2, 2)], 2)

    def encode_in_pieces(self, x: Tensor, memory: int) -> Tensor:
        return torch.cat([self.encode_moments(half) for half in x.chunk(2, 3)], 3)


class WithStatisticsOfHalves(InHalves):
    """Each half about its own mean: a seam between them."""

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        centred = [half - half.mean() + z.mean() for half in z.chunk(2, 2)]
        return super().decode_in_pieces(torch.cat(centred, 2), memory)


class NormalisesTwice(Stage):
    """Multiplies by a scale factor that it should only divide by: one number of published code."""

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        return super().latents(moments, streams=streams) * 0.18215


class ForgetsDecode(FirstStage, nn.Module):
    """Four of five methods."""

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__()
        self.latent = config.latent

    def encode_moments(self, x: Tensor) -> Tensor:
        return x

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        return moments

    def project(self, z: Tensor) -> Tensor:
        return z

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        pass


@attrs.frozen(kw_only=True)
class AllPrecisions(StageConfig):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")


@attrs.frozen(kw_only=True)
class Half(StageConfig):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "half")


@attrs.frozen(kw_only=True)
class LowAlone(StageConfig):
    precisions: ClassVar[tuple[str, ...]] = ("bf16",)


@attrs.frozen(kw_only=True)
class FullAlone(StageConfig):
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)


class Overflows(Stage):
    """Numbers that leave the range of fp16 and come back."""

    def decode(self, z: Tensor) -> Tensor:
        out = super().decode(z)
        loud = F.conv2d(out, 1e6 * torch.eye(out.shape[1], dtype=out.dtype, device=out.device)[..., None, None])
        return (loud / 1e6).to(out.dtype)


class OverflowsInBF16(Stage):
    """It cannot do what its config leaves out."""

    def decode(self, z: Tensor) -> Tensor:
        out = super().decode(z)
        return out / 0 if out.dtype == torch.bfloat16 else out


def test_a_right_stage_of_some_precisions_passes() -> None:
    for make, config in ((Stage, AllPrecisions), (Overflows, StageConfig), (OverflowsInBF16, FullAlone)):
        assert not faults_of(FirstStageSuite, make, config, only="test_runs_in_the_precisions_that_it_names")
        assert not faults_of(FirstStageSuite, make, config, only="test_runs_under_bfloat16")


def test_a_right_stage_in_pieces_passes() -> None:
    assert not faults_of(FirstStageSuite, InHalves, StageConfig, only="test_pieces_are_the_whole")


@mistakes(
    Mistake(Overflows, "test_runs_in_the_precisions_that_it_names", "is not finite in fp16", AllPrecisions),
    Mistake(Stage, "test_runs_in_the_precisions_that_it_names", "unknown precisions: ['half']", Half),
    Mistake(Stage, "test_runs_in_the_precisions_that_it_names", "leave out fp32, in which every", LowAlone),
    Mistake(OverflowsInBF16, "test_runs_under_bfloat16", "is not finite under bfloat16 autocast", StageConfig),
)
def test_a_mistake_in_a_stages_precisions_is_found(mistake: Mistake) -> None:
    assert_found(FirstStageSuite, mistake)


@mistakes(
    Mistake(
        Crops, "test_an_indivisible_size_is_refused", ("raises nothing", "must raise ValueError", "self.latent.shape(")
    ),
    Mistake(
        RefusesInItsOwnWay, "test_an_indivisible_size_is_refused", ("raises AssertionError (bad", "not ValueError")
    ),
    Mistake(OtherChannels, "test_latent_shape_is_as_declared", "the config declares"),
    Mistake(ClaimsAnotherStride, "test_latent_shape_is_as_declared", "the config declares"),
    Mistake(
        WithStatisticsOfHalves, "test_pieces_are_the_whole", ("decode_in_pieces within", "is off by", "group norm")
    ),
    Mistake(LosesAStride, "test_decode_gives_images", "decode gives (2, 3, 16, 24) for images (2, 3, 32, 48)"),
    Mistake(InBytes, "test_decode_gives_images", "half of the decoded values are beyond 1"),
    Mistake(NoisyMoments, "test_repeats_itself", "two calls in eval mode differ in moments"),
    Mistake(NoisyMoments, "test_leaves_the_global_generators_alone", "the global generator of torch"),
    Mistake(DrawsInTheMode, "test_repeats_itself", "differ in latents"),
    Mistake(DropsOutWhenItSamples, "test_repeats_itself", "differ in moments"),
    Mistake(GlobalLatents, "test_latents_repeat_under_the_same_streams", "the same streams gave other latents"),
    Mistake(HalfNormalized, "test_normalization_is_honoured", "decode does not undo the normalisation"),
    Mistake(NormalisesTwice, "test_normalization_is_honoured", "latents are not (raw - mean) / std"),
    Mistake(
        NormalizedMoments, "test_moments_do_not_depend_on_the_normalization", "changed what encode_moments returns"
    ),
    Mistake(Forgetful, "test_state_round_trip", "missing keys"),
    Mistake(KeepsItsCodesToItself, "test_state_round_trip", "a fresh component differs in image"),
    Mistake(LooseState, "test_state_round_trip", "state_dict holds what is no tensor"),
    Mistake(BatchCentred, "test_an_example_does_not_depend_on_its_batch", "moments: example 0 alone and in a batch"),
    Mistake(InPlace, "test_inputs_stay_unchanged", "changed its inputs in place"),
    Mistake(Detached, "test_gradients_are_not_forced_off", "no output has a gradient"),
    Mistake(FreezesItself, "test_gradients_are_not_forced_off", "the component froze encoder.weight"),
    Mistake(SwitchesMode, "test_modes_are_the_cores", "a call switched train or eval mode"),
    Mistake(Drifts, "test_projection_is_idempotent", "projecting twice moves the latents"),
    Mistake(Counts, "test_repeats_itself", "differ in"),
    Mistake(DoubleLatents, "test_computes_in_single_precision", ("latents", "float64 of float32 inputs")),
    Mistake(StatisticsAnywhere, "test_picks_no_device", "torch's mul got a tensor of the default device"),
    Mistake(ForgetsDecode, "test_builds_by_name", ("abstract", "decode")),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(FirstStageSuite, mistake, StageConfig)


def test_an_indivisible_size_must_name_both_numbers() -> None:
    class Vague(Stage):
        def encode_moments(self, x: Tensor) -> Tensor:
            if x.shape[2] % 4 or x.shape[3] % 4:
                raise ValueError("the size does not fit")
            return self.encoder(x)

    found = faults_of(FirstStageSuite, Vague, StageConfig)
    assert "does not name 33" in found["test_an_indivisible_size_is_refused"]
