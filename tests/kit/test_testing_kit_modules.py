"""The kit's suites of first stages and conditioners, put to the test.

For each, a right toy passes everything, and a toy with one fault fails the test that is there to find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Conditioner, CondSpec, FirstStage, LatentSpec, Reconstruction, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.testing import (
    ConditionerSuite,
    FirstStageSuite,
    Suite,
    batches,
)
from ldm_core.testing.running import catalog_of, failures


def faults_of(suite: type[Suite], make: Callable[..., Any], config: type, **attributes: Any) -> dict[str, str]:
    attributes.setdefault("catalog", catalog_of(suite.kind, "toy", config, make))
    return failures(type("Mine", (suite,), {"component": "toy", **attributes}))


# ----------------------------------------------------------------------------------------------- first stages


@attrs.frozen(kw_only=True)
class StageConfig:
    channels: int = 3

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec(self.channels, (4, 4))


class Stage(FirstStage, nn.Module):
    """A linear KL stage of factor 4: one convolution each way."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__()
        self.latent = config.latent
        self.encoder = nn.Conv2d(site.channels, 2 * config.channels, 4, stride=4)
        self.decoder = nn.ConvTranspose2d(config.channels, site.channels, 4, stride=4)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))

    def encode_moments(self, x: Tensor) -> Tensor:
        self.latent.shape(x.shape[2:])
        return self.encoder(x)

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        mean, logvar = moments.chunk(2, 1)
        if streams is not None:
            mean = mean + (0.5 * logvar).exp() * self.noise(streams, mean)
        return (mean - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return streams.normal(like.shape)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1))

    def project(self, z: Tensor) -> Tensor:
        return z

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(std)

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        moments = self.encode_moments(x)
        return Reconstruction(self.decode(self.latents(moments, streams=streams)), moments.square().mean())


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


class IdleParameter(Stage):
    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Linear(2, 2)


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


@pytest.mark.parametrize(
    ("stage", "test"),
    [
        (Stage, None),
        (Crops, "test_an_indivisible_size_is_refused"),
        (OtherChannels, "test_latent_shape_is_as_declared"),
        (NoisyMoments, "test_repeats_itself"),
        (NoisyMoments, "test_leaves_the_global_generators_alone"),
        (GlobalLatents, "test_latents_repeat_under_the_same_streams"),
        (HalfNormalized, "test_normalization_is_honoured"),
        (NormalizedMoments, "test_moments_do_not_depend_on_the_normalization"),
        (Forgetful, "test_state_round_trip"),
        (BatchCentred, "test_an_example_does_not_depend_on_its_batch"),
        (InPlace, "test_inputs_stay_unchanged"),
        (Detached, "test_gradients_are_not_forced_off"),
        (FreezesItself, "test_gradients_are_not_forced_off"),
        (SwitchesMode, "test_modes_are_the_cores"),
        (IdleParameter, "test_training_reaches_every_parameter"),
        (Drifts, "test_projection_is_idempotent"),
        (Counts, "test_repeats_itself"),
        (LooseState, "test_state_round_trip"),
    ],
)
def test_first_stages(stage: type, test: str | None) -> None:
    found = faults_of(FirstStageSuite, stage, StageConfig)
    assert test in found if test else not found, found


def test_an_indivisible_size_must_name_both_numbers() -> None:
    class Vague(Stage):
        def encode_moments(self, x: Tensor) -> Tensor:
            if x.shape[2] % 4 or x.shape[3] % 4:
                raise ValueError("the size does not fit")
            return self.encoder(x)

    found = faults_of(FirstStageSuite, Vague, StageConfig)
    assert "does not name 33" in found["test_an_indivisible_size_is_refused"]


# ----------------------------------------------------------------------------------------------- conditioners


@attrs.frozen(kw_only=True)
class WordsConfig:
    width: int = 6

    @property
    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        return CondSpec(crossattn=self.width)


class Words(Conditioner, nn.Module):
    """Bags of letters: a token a word, padded to the batch's longest and masked; it learns how long words may be."""

    longest: Tensor

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.spec, self.reads = config.spec(site.latent), config.reads
        self.table = nn.Embedding(26, config.width)
        self.empty = nn.Parameter(torch.randn(config.width))
        self.register_buffer("longest", torch.zeros((), dtype=torch.int64))

    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        self.longest.fill_(max(len(word) for e in examples for word in e["caption"].split()))

    def encode(self, batch: Mapping[str, Any]) -> Cond:
        words = [[w[: int(self.longest)] for w in text.split()] for text in batch["caption"]]
        length = max(map(len, words))
        device = self.empty.device
        rows, mask = [], torch.zeros(len(words), length, dtype=torch.bool, device=device)
        for i, row in enumerate(words):
            codes = [torch.tensor([(ord(c) - 97) % 26 for c in w], device=device) for w in row]
            vectors = [self.table(each).mean(0) for each in codes]
            rows.append(F.pad(torch.stack(vectors), (0, 0, 0, length - len(row))))
            mask[i, : len(row)] = True
        return Cond(crossattn=torch.stack(rows), crossattn_mask=mask)

    def null(self, like: Cond) -> Cond:
        assert like.crossattn is not None and like.crossattn_mask is not None
        tokens = self.empty.to(like.crossattn.dtype).expand(like.crossattn.shape)
        first = torch.zeros_like(like.crossattn_mask)
        first[:, 0] = True  # one token, however long the batch's longest caption
        return like._replace(crossattn=tokens, crossattn_mask=first)


class TouchesMore(Words):
    def encode(self, batch: Mapping[str, Any]) -> Cond:
        _ = batch["image"]
        return super().encode(batch)


class TouchesLess(Words):
    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.reads = ("caption", "image")


class OtherWidth(Words):
    def encode(self, batch: Mapping[str, Any]) -> Cond:
        cond = super().encode(batch)
        assert cond.crossattn is not None
        return cond._replace(crossattn=cond.crossattn.repeat(1, 1, 2))


class FixedNull(Words):
    """As long as every caption seen so far."""

    def null(self, like: Cond) -> Cond:
        assert like.crossattn is not None
        rows = like.crossattn.shape[0]
        mask = torch.ones(rows, 7, dtype=torch.bool)
        return like._replace(crossattn=self.empty.expand(rows, 7, -1), crossattn_mask=mask)


class LeakingNull(Words):
    def null(self, like: Cond) -> Cond:
        assert like.crossattn is not None
        return super().null(like)._replace(crossattn=0.1 * like.crossattn + self.empty)


class DoubleNull(Words):
    def null(self, like: Cond) -> Cond:
        null = super().null(like)
        assert null.crossattn is not None
        return null._replace(crossattn=null.crossattn.double())


class BlindNull(Words):
    def null(self, like: Cond) -> Cond:
        assert like.crossattn_mask is not None
        return super().null(like)._replace(crossattn_mask=torch.zeros_like(like.crossattn_mask))


class Unmasked(Words):
    def encode(self, batch: Mapping[str, Any]) -> Cond:
        cond = super().encode(batch)
        assert cond.crossattn_mask is not None
        return cond._replace(crossattn_mask=torch.ones_like(cond.crossattn_mask))


class Constant(Words):
    def encode(self, batch: Mapping[str, Any]) -> Cond:
        return super().encode({"caption": ["one and the same"] * len(batch["caption"])})


class FitsOutsideItsState(Words):
    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        self._buffers.pop("longest")
        self.longest = torch.tensor(max(len(word) for e in examples for word in e["caption"].split()))


class NullNeverLearns(Words):
    def null(self, like: Cond) -> Cond:
        assert like.crossattn is not None
        return super().null(like)._replace(crossattn=torch.zeros_like(like.crossattn))


@pytest.mark.parametrize(
    ("conditioner", "test"),
    [
        (Words, None),
        (TouchesMore, "test_reads_exactly_what_it_declares"),
        (TouchesMore, "test_works_with_only_the_keys_it_reads"),
        (TouchesLess, "test_reads_exactly_what_it_declares"),
        (OtherWidth, "test_spec_is_true"),
        (FixedNull, "test_null_matches_encode"),
        (DoubleNull, "test_null_matches_encode"),
        (LeakingNull, "test_null_tells_nothing_of_the_example"),
        (BlindNull, "test_masks_attend_to_something"),
        (Unmasked, "test_an_example_does_not_depend_on_its_batch"),
        (Constant, "test_the_condition_matters"),
        (FitsOutsideItsState, "test_state_round_trip"),
        (NullNeverLearns, "test_training_reaches_every_parameter"),
    ],
)
def test_conditioners(conditioner: type, test: str | None) -> None:
    found = faults_of(ConditionerSuite, conditioner, WordsConfig)
    assert test in found if test else not found, found


def test_parameters_that_nothing_uses_can_be_named() -> None:
    assert not faults_of(ConditionerSuite, NullNeverLearns, WordsConfig, unused=("empty",))


def test_the_batch_can_be_extended() -> None:
    @attrs.frozen(kw_only=True)
    class PaletteConfig(WordsConfig):
        @property
        def reads(self) -> tuple[str, ...]:
            return ("palette",)

        def spec(self, latent: LatentSpec) -> CondSpec:
            return CondSpec(vector=3)

    class Palette(Conditioner, nn.Module):
        def __init__(self, config: PaletteConfig, site: Site) -> None:
            super().__init__()
            self.spec, self.reads = CondSpec(vector=3), config.reads

        def encode(self, batch: Mapping[str, Any]) -> Cond:
            return Cond(vector=batch["palette"])

        def null(self, like: Cond) -> Cond:
            return like.map(torch.zeros_like)

    def batch(self: Any, rows: Any, size: Any) -> dict[str, Any]:
        return {**ConditionerSuite.batch(self, rows, size), "palette": batches.uniform(rows, (3,), "palette")}

    assert not faults_of(ConditionerSuite, Palette, PaletteConfig, batch=batch)
    assert "'palette'" in faults_of(ConditionerSuite, Palette, PaletteConfig)["test_spec_is_true"]
