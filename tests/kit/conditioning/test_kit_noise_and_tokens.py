"""The suites on what bundles may carry: drawn noise, named sets of tokens, tokens that join; and mistakes in these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from planted import Mistake, assert_found, faults_of, mistakes
from right_modules import Net, Noisy, NoisyConfig, Words, WordsConfig
from torch import Tensor, nn

from ldm_core.contracts import Accepts, CondSpec, LatentSpec, Site, Tokens
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.testing import ConditionerSuite, DenoiserSuite

# ----------------------------------------------------------------------------------------------- conditioners


def test_a_conditioner_that_draws_and_writes_named_tokens_passes() -> None:
    assert not faults_of(ConditionerSuite, Noisy, NoisyConfig)


class DrawsGlobally(Noisy):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return torch.randn_like(like)


class IgnoresItsStreams(Noisy):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return torch.ones_like(like)


class DrawsFromTheFirstStream(Noisy):
    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return Streams(streams.seeds[:1]).normal((1, *like.shape[1:])).expand_as(like)


class SeedsOnceForAll(Noisy):
    """One generator for the batch, of all its seeds."""

    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(sum(streams.seeds)))


class DrawsWithoutStreams(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        return super().encode(batch, streams=streams or Streams(torch.randint(9, (len(batch["caption"]),)).tolist()))


class NeedsStreams(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams) -> Cond:  # type: ignore[override]
        return super().encode(batch, streams=streams)


class DrawsTwiceAsMany(Noisy):
    """The bundle is another one with noise than without."""

    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        assert cond.vector is not None
        return cond if streams is None else cond._replace(vector=torch.cat([cond.vector, cond.vector], 1))


class NoStreams(Words):
    """Its config says that it draws."""


@attrs.frozen(kw_only=True)
class SaysThatItDraws(WordsConfig):
    draws: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class SaysNothing(NoisyConfig):
    draws: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class PadsTooLittle(NoisyConfig):
    def spec(self, latent: LatentSpec) -> CondSpec:
        return attrs.evolve(super().spec(latent), pad_to=1)


class PadsItself(Noisy):
    """Its tokens have the width that joining is to give them."""

    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        assert cond.crossattn is not None
        return cond._replace(crossattn=nn.functional.pad(cond.crossattn, (0, 3)))


class WideLetters(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        values, mask = cond.tokens["letters"]
        return cond._replace(tokens={"letters": Tokens(torch.cat([values, values], 2), mask)})


class OtherName(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        return cond._replace(tokens={"words": cond.tokens["letters"]})


class BareTensor(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        return cond._replace(tokens={"letters": cond.tokens["letters"].values})  # type: ignore[dict-item]


class UnmaskedLetters(Noisy):
    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        cond = super().encode(batch, streams=streams)
        return cond._replace(tokens={"letters": Tokens(cond.tokens["letters"].values)})


class BlindNull(Noisy):
    def null(self, like: Cond) -> Cond:
        return like.map(torch.zeros_like)


class FixedNull(Noisy):
    """Three letters, however long the captions are."""

    def null(self, like: Cond) -> Cond:
        null, rows = super().null(like), like.rows() or 0
        return null._replace(tokens={"letters": Tokens(torch.zeros(rows, 3, 4), torch.ones(rows, 3).bool())})


@mistakes(
    Mistake(DrawsGlobally, "test_draws_from_its_streams", "draws from a global generator"),
    Mistake(IgnoresItsStreams, "test_draws_from_its_streams", "row 0 is the same under other streams"),
    Mistake(DrawsFromTheFirstStream, "test_a_row_draws_from_its_own_stream", "stream of example 0 changes vector"),
    Mistake(SeedsOnceForAll, "test_a_row_draws_from_its_own_stream", "stream of example 0 changes vector"),
    Mistake(DrawsWithoutStreams, "test_repeats_itself", "two calls in eval mode differ in vector"),
    Mistake(NeedsStreams, "test_takes_streams_if_it_draws", "must take the deterministic mode"),
    Mistake(NoStreams, "test_takes_streams_if_it_draws", "encode takes no streams", SaysThatItDraws),
    Mistake(Noisy, "test_takes_streams_if_it_draws", "does not say that it draws", SaysNothing),
    Mistake(DrawsTwiceAsMany, "test_a_drawn_bundle_is_as_its_spec", "with streams, wrote vector float32 (2, 6)"),
    Mistake(PadsItself, "test_spec_is_true", "expected: (B, L, 2), as its spec declares"),
    Mistake(Noisy, "test_spec_is_true", "pads its tokens to width 1", PadsTooLittle),
    Mistake(WideLetters, "test_spec_is_true", ("wrote the tokens 'letters' float32", "expected: (B, L, 4)")),
    Mistake(OtherName, "test_spec_is_true", "wrote tokens ['words']; expected: ['letters']"),
    Mistake(BareTensor, "test_spec_is_true", "the tokens 'letters' as Tensor; expected: Tokens(values, mask)"),
    Mistake(UnmaskedLetters, "test_an_example_does_not_depend_on_its_batch", "padded to the longest of the batch"),
    Mistake(BlindNull, "test_masks_attend_to_something", "a row of the mask of null attends to nothing"),
    Mistake(FixedNull, "test_null_matches_encode", "null wrote tokens/letters float32 (2, 3, 4)"),
)
def test_a_mistake_with_noise_or_tokens_is_found(mistake: Mistake) -> None:
    assert_found(ConditionerSuite, mistake, NoisyConfig)


# -------------------------------------------------------------------------------------------------- denoisers


@attrs.frozen(kw_only=True)
class LettersConfig:
    @property
    def accepts(self) -> Accepts:
        return Accepts(residuals=False, tokens=("letters",))


class LettersNet(Net):
    """Shifts F by the mean of the set ``letters``."""

    def __init__(self, config: LettersConfig, site: Site) -> None:
        super().__init__(config, site)  # type: ignore[arg-type]
        self.from_letters = nn.Linear(site.cond.tokens["letters"], self.mix.out_channels)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        letters = self.letters(cond)
        weight = letters.attended.to(x.dtype)[..., None]
        shift = (torch.tanh(self.from_letters(letters.values)) * weight).sum(1) / weight.sum(1)
        return super().forward(x, noise_level, cond) + shift[..., None, None]

    def letters(self, cond: Cond) -> Tokens:
        return cond.tokens["letters"]


class IgnoresTheMask(LettersNet):
    def letters(self, cond: Cond) -> Tokens:
        return Tokens(cond.tokens["letters"].values)


class DeafToLetters(LettersNet):
    def letters(self, cond: Cond) -> Tokens:
        return Tokens(cond.tokens["letters"].values * 0, cond.tokens["letters"].mask)


def test_a_denoiser_with_a_named_set_of_tokens_passes() -> None:
    assert not faults_of(DenoiserSuite, LettersNet, LettersConfig)


@mistakes(
    Mistake(IgnoresTheMask, "test_masked_tokens_do_not_matter", "masked tokens of tokens/letters change the output"),
    Mistake(DeafToLetters, "test_every_conditioning_part_matters", "'tokens/letters' does not change the output"),
)
def test_a_mistake_in_a_denoiser_of_named_tokens_is_found(mistake: Mistake) -> None:
    assert_found(DenoiserSuite, mistake, LettersConfig)
