"""The tests of stages that are trained: right ones pass, and each mistake fails its test with the contract's line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from planted import Mistake, assert_found, faults_of, mistakes
from right_modules import CodeStage, Stage, StageConfig
from torch import Tensor, nn

from ldm_core.contracts import FirstStage, LatentSpec, Reconstruction, Site
from ldm_core.contracts.streams import Streams
from ldm_core.testing import FirstStageSuite


class OnlyAFirstStage(FirstStage, nn.Module):
    """Implements the page of the first stage, and offers nothing for training."""

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__()
        self.latent = LatentSpec(site.channels, (1, 1))
        self.scale = nn.Parameter(torch.ones(()))

    def encode_moments(self, x: Tensor) -> Tensor:
        return x * self.scale

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        return moments

    def decode(self, z: Tensor) -> Tensor:
        return z / self.scale

    def project(self, z: Tensor) -> Tensor:
        return z

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        pass


class IdleParameter(Stage):
    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Linear(2, 2)


class ACopy(Stage):
    """Hands out the last weight without its graph."""

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.weight.detach()


class ABuffer(Stage):
    @property
    def last_layer(self) -> Tensor:
        return self.mean


class SumsInWords(Stage):
    nll_reduction = "batch"


class WeightOfText(Stage):
    regularization_weight = "1e-6"


class NegativeWeight(Stage):
    regularization_weight = -1.0


class PenaltyOfEach(Stage):
    """A divergence an example, where the core wants one number."""

    def penalty(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return super().penalty(mean, logvar).expand(len(mean))


class BareTuple(Stage):
    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Any:
        return tuple(super().reconstruct(x, streams=streams))


class HalfSize(Stage):
    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        found = super().reconstruct(x, streams=streams)
        return found._replace(image=found.image[..., ::2, ::2])


class ClampsInTraining(Stage):
    """Cuts off what decode leaves."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        found = super().reconstruct(x, streams=streams)
        return found._replace(image=found.image.clamp(-0.1, 0.1))


class NormalisesInTraining(Stage):
    """Decodes normalised latents, as published code with a scale factor does."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        found = super().reconstruct(x, streams=streams)
        return found._replace(image=self.decoder(self.latents(self.encode_moments(x))))


class HandsOutLatents(Stage):
    """Gives the latents that the decoder was given; `other` plants what is wrong with them."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        mean, logvar = self.encode_moments(x).chunk(2, 1)
        raw = mean if streams is None else mean + (0.5 * logvar).exp() * self.noise(streams, mean)
        return Reconstruction(self.decoder(raw), self.penalty(mean, logvar), self.logs(mean), z=self.other(raw))

    def other(self, raw: Tensor) -> Tensor:
        return raw


class DetachedLatents(HandsOutLatents):
    def other(self, raw: Tensor) -> Tensor:
        return raw.detach()


class ScaledLatents(HandsOutLatents):
    """As published code with a scale factor has them."""

    def other(self, raw: Tensor) -> Tensor:
        return 0.5 * raw


class LatentsAndVariances(HandsOutLatents):
    def other(self, raw: Tensor) -> Tensor:
        return torch.cat([raw, raw], 1)


class DrawsByItself(Stage):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return torch.randn_like(like)


class OneDrawForAll(Stage):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return streams.normal(like.shape)[:1].expand_as(like)


class GraphInLogs(Stage):
    def logs(self, mean: Tensor) -> Mapping[str, Tensor]:
        return {"mean": mean.mean()}


class Numbers(Stage):
    def logs(self, mean: Tensor) -> Mapping[str, Any]:
        return {"mean": float(mean.detach().mean())}


class LogsOfNothing(Stage):
    """Divides by a count of zero."""

    def logs(self, mean: Tensor) -> Mapping[str, Tensor]:
        return {"mean": mean.detach().mean() / 0}


class WideDiagnostics(Stage):
    def diagnostics(self, logs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"channel": logs["channels"]}


class TwoOfOneName(Stage):
    def diagnostics(self, logs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"mean": logs["channels"].mean()}


class SortsItsLogs(Stage):
    def diagnostics(self, logs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        logs["channels"].copy_(logs["channels"].sort().values + 1)
        return {"channel_max": logs["channels"][-1]}


class CountsNothing(CodeStage):
    def counted(self, index: Tensor) -> Mapping[str, Tensor]:
        return {}


class CountsPictures(CodeStage):
    """Counts a code once a picture, however often it occurs in it."""

    def counted(self, index: Tensor) -> Mapping[str, Tensor]:
        found = [torch.bincount(row.flatten(), minlength=len(self.quantize.table)) > 0 for row in index]
        return {"codebook_counts": torch.stack(found).sum(0)}


class AlwaysQuantizes(CodeStage):
    """Knows no start without codes."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        self.quantizing = True
        return super().reconstruct(x, streams=streams)


class PicksGlobally(CodeStage):
    def picked(self, latents: Tensor, count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        points = latents if latents.dim() == 2 else latents.movedim(1, -1).flatten(0, -2)
        return points[torch.randperm(len(points))[:count]]


class IgnoresTheSeed(CodeStage):
    def picked(self, latents: Tensor, count: int, seed: int) -> Tensor:
        return super().picked(latents, count, 0)


class MovesTheDecoder(CodeStage):
    """Scales the decoder as well."""

    def init_codebook(self, latents: Tensor, *, seed: int) -> None:
        super().init_codebook(latents, seed=seed)
        self.decoder.weight.mul_(0.5)


class RevivesAll(CodeStage):
    """Takes the codes in use for dead."""

    def revive(self, latents: Tensor, dead: Tensor, *, seed: int) -> int:
        return super().revive(latents, ~dead, seed=seed)


class SaysNothingOfTheDead(CodeStage):
    def revive(self, latents: Tensor, dead: Tensor, *, seed: int) -> int:
        super().revive(latents, dead, seed=seed)
        return 0


class IndicesFromOne(CodeStage):
    def indices(self, moments: Tensor) -> Tensor:
        return super().indices(moments) + 1


class IndicesOfNormalised(CodeStage):
    """Looks codes up of the latents, and not of the moments."""

    def indices(self, moments: Tensor) -> Tensor:
        return super().indices(3 * moments - 1)


class FlatIndices(CodeStage):
    def indices(self, moments: Tensor) -> Tensor:
        return super().indices(moments).flatten()


class SizeOfOneCode(CodeStage):
    codebook_size = 3


class LosesTheCodes(CodeStage):
    """Hands no gradient to its codes."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        found = super().reconstruct(x, streams=streams)
        return found._replace(regularization=found.image.mean() * 0)


@pytest.mark.parametrize("stage", [Stage, CodeStage, HandsOutLatents])
def test_a_right_stage_passes(stage: type) -> None:
    assert not faults_of(FirstStageSuite, stage, StageConfig)


@mistakes(
    Mistake(OnlyAFirstStage, "test_training_reaches_every_parameter", ("has no reconstruct", "trainable =")),
    Mistake(PenaltyOfEach, "test_training_reaches_every_parameter", "regularization has shape (2,), not ()"),
    Mistake(HalfSize, "test_training_reaches_every_parameter", "an image of shape (2, 3, 16, 16)"),
    Mistake(BareTuple, "test_training_reaches_every_parameter", "reconstruct gave tuple, not a Reconstruction"),
    Mistake(IdleParameter, "test_training_reaches_every_parameter", "training does not reach idle.weight"),
    Mistake(LosesTheCodes, "test_training_reaches_every_parameter", "training does not reach quantize.table"),
    Mistake(ClampsInTraining, "test_a_pass_is_what_decoding_shows", "reconstruct and decode differ by"),
    Mistake(NormalisesInTraining, "test_a_pass_is_what_decoding_shows", "reconstruct and decode differ by"),
    Mistake(DrawsByItself, "test_a_pass_draws_from_the_streams", "reconstruct draws from a global generator"),
    Mistake(OneDrawForAll, "test_a_pass_draws_from_the_streams", "row 1 alone and in a batch differ"),
    Mistake(ACopy, "test_the_last_layer_makes_the_image", "last_layer is no parameter of the stage"),
    Mistake(ABuffer, "test_the_last_layer_makes_the_image", "last_layer is no parameter of the stage"),
    Mistake(SumsInWords, "test_the_loss_has_its_numbers", "nll_reduction is 'batch'"),
    Mistake(WeightOfText, "test_the_loss_has_its_numbers", "regularization_weight is '1e-6'"),
    Mistake(NegativeWeight, "test_the_loss_has_its_numbers", "regularization_weight is -1.0"),
    Mistake(DetachedLatents, "test_z_is_the_latents", "z is detached"),
    Mistake(ScaledLatents, "test_z_is_the_latents", "z and the mode's raw latents differ by"),
    Mistake(LatentsAndVariances, "test_z_is_the_latents", "z has shape (2, 6, 8, 8), latents have (2, 3, 8, 8)"),
    Mistake(GraphInLogs, "test_logs_become_scalars", "log 'mean' holds the graph"),
    Mistake(Numbers, "test_logs_become_scalars", "log 'mean' is float, not a tensor"),
    Mistake(LogsOfNothing, "test_logs_become_scalars", "log 'mean' is not finite"),
    Mistake(WideDiagnostics, "test_logs_become_scalars", "diagnostics made 'channel' of shape (3,), not ()"),
    Mistake(TwoOfOneName, "test_logs_become_scalars", "diagnostics made 'mean', which is a log already"),
    Mistake(SortsItsLogs, "test_logs_become_scalars", "diagnostics changed the logs"),
    Mistake(CountsNothing, "test_a_codebook_is_whole", "reconstruct logs no codebook_counts"),
    Mistake(CountsPictures, "test_a_codebook_is_whole", "do not add up to the latents"),
    Mistake(AlwaysQuantizes, "test_a_codebook_is_whole", "codes are counted while quantizing is False"),
    Mistake(FlatIndices, "test_indices_are_the_codes_that_are_counted", "indices gives torch.int64 (128,)"),
    Mistake(SizeOfOneCode, "test_indices_are_the_codes_that_are_counted", "codebook_size is 3, and 7 codes"),
    Mistake(IndicesFromOne, "test_indices_are_the_codes_that_are_counted", "indices go beyond the 7 codes"),
    Mistake(IndicesOfNormalised, "test_indices_are_the_codes_that_are_counted", "other codes than counted"),
    Mistake(PicksGlobally, "test_a_codebook_starts_from_latents", "draws from a global generator"),
    Mistake(IgnoresTheSeed, "test_a_codebook_starts_from_latents", "another seed gives the same codes"),
    Mistake(MovesTheDecoder, "test_a_codebook_starts_from_latents", "changes decoder.weight"),
    Mistake(RevivesAll, "test_a_codebook_revives_what_is_dead", "revive moved codes that are in use"),
    Mistake(SaysNothingOfTheDead, "test_a_codebook_revives_what_is_dead", "moved 0 of 4 dead codes"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(FirstStageSuite, mistake, StageConfig)


def test_a_stage_that_no_run_trains_can_say_so() -> None:
    found = faults_of(FirstStageSuite, OnlyAFirstStage, StageConfig, trainable=False)
    assert not [name for name in found if "pass" in name or "training" in name or "codebook" in name]
