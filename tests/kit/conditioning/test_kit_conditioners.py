"""The suite of conditioners: a right one passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from planted import Mistake, assert_found, assert_told, faults_of, mistakes
from right_modules import Words, WordsConfig
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Conditioner, CondSpec, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import ConditionerSuite, batches


def test_a_right_conditioner_passes() -> None:
    assert not faults_of(ConditionerSuite, Words, WordsConfig)


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


class Planted(Words):
    """Words, whose bundle is changed before it is handed back."""

    def encode(self, batch: Mapping[str, Any]) -> Cond:
        return self.changed(super().encode(batch), batch)

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond


class Double(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn.double())


class DoubleByNumpy(Planted):
    """A number of numpy's makes float64 of all that it meets first."""

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        scale = torch.as_tensor(np.ones(1), device=self.empty.device)
        return cond._replace(crossattn=cond.crossattn.to(scale.dtype) * scale)


class MaskMadeAnywhere(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        mask = torch.zeros(cond.crossattn_mask.shape, dtype=torch.bool)
        mask[:] = cond.crossattn_mask
        return cond._replace(crossattn_mask=mask)


class PositionsMadeAnywhere(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + torch.arange(cond.crossattn.shape[1]).view(-1, 1))


class TakesTheGpu(Planted):
    """The usual line of scripts."""

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.place = "cuda" if torch.cuda.is_available() else "cpu"

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn.to(self.place))


class StaysOnTheCpu(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn * torch.ones(1, 1, self.spec.crossattn, device="cpu"))


class WrongWidth(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn[..., :-1])


class UndeclaredVector(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(vector=cond.crossattn.mean(1))


class NumbersForAMask(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn_mask=cond.crossattn_mask.float())


class BatchMean(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn - cond.crossattn.mean(0))


class CountsCalls(Planted):
    calls: Tensor

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("calls", torch.zeros(()))

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        self.calls += 1
        return cond


class Jitters(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + 1e-3 * torch.randn_like(cond.crossattn))


class ShortNull(Words):
    def null(self, like: Cond) -> Cond:
        null = super().null(like)
        assert null.crossattn is not None and null.crossattn_mask is not None
        return null._replace(crossattn=null.crossattn[:, :1], crossattn_mask=null.crossattn_mask[:, :1])


class ReadsAnUndeclaredKey(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn * batch["weight"])


class EditsItsInput(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        batch["caption"][0] = "changed"
        return cond


class DrawsByNumpy(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + float(np.random.rand()))


class DrawsByPython(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + random.random())


class DropsOut(Planted):
    """``F.dropout`` drops in eval mode as well, where it is not told of the mode."""

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=F.dropout(cond.crossattn))


class NotFinite(Planted):
    """Divides by a count of zero."""

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn / (batch["class_label"] * 0).sum())


class SaysAnotherSpec(Words):
    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.spec = CondSpec(crossattn=2 * config.width)


class LosesARow(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond.map(lambda v: v[:1])


class TableElsewhere(Planted):
    """Learns by gradients what no state dict holds."""

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.scale = [nn.Parameter(torch.rand(config.width))]

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn * self.scale[0])


class NotPersistent(Planted):
    """A buffer that is left out of the state dict."""

    offset: Tensor

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("offset", torch.randn(config.width), persistent=False)

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + self.offset)


class ReadsByItself(Words):
    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.reads = ("caption",)


class ParentCalled(Conditioner, nn.Module):
    """Assigns a module before nn.Module is set up."""

    def __init__(self, config: WordsConfig, site: Site) -> None:
        self.table = nn.Embedding(26, config.width)
        super().__init__()

    def encode(self, batch: Mapping[str, Any]) -> Cond:
        return Cond()

    def null(self, like: Cond) -> Cond:
        return like


@attrs.frozen(kw_only=True)
class SaysAnotherKey(WordsConfig):
    @property
    def reads(self) -> tuple[str, ...]:
        return ("caption", "image")


@attrs.frozen(kw_only=True)
class Complains(WordsConfig):
    def check(self, site: Site) -> list[str]:
        return [f"width {self.width} does not suit {site.size}"]


@mistakes(
    Mistake(WrongWidth, "test_spec_is_true", ("(2, ", "expected: (B, L, 6), as its spec declares")),
    Mistake(OtherWidth, "test_spec_is_true", "expected: (B, L, 6)"),
    Mistake(SaysAnotherSpec, "test_spec_is_true", "config.spec says CondSpec(crossattn=6"),
    Mistake(UndeclaredVector, "test_spec_is_true", ("wrote vector float32", "its spec declares no vector")),
    Mistake(NumbersForAMask, "test_spec_is_true", ("crossattn_mask float32", "expected: bool")),
    Mistake(Double, "test_spec_is_true", ("as float64", "expected: float32")),
    Mistake(LosesARow, "test_spec_is_true", "wrote"),
    Mistake(Double, "test_computes_in_single_precision", ("crossattn", "float64 of float32 inputs", "torch.float32")),
    Mistake(DoubleByNumpy, "test_computes_in_single_precision", "arrays of numpy"),
    Mistake(MaskMadeAnywhere, "test_picks_no_device", "crossattn_mask would come back on the default device"),
    Mistake(PositionsMadeAnywhere, "test_picks_no_device", "torch's add got a tensor of the default device"),
    Mistake(TakesTheGpu, "test_picks_no_device", "moves a tensor to 'cuda' by itself"),
    Mistake(StaysOnTheCpu, "test_picks_no_device", "torch's mul"),
    Mistake(BatchMean, "test_an_example_does_not_depend_on_its_batch", "alone and in a batch of 3 differ"),
    Mistake(Unmasked, "test_an_example_does_not_depend_on_its_batch", "padding of the batch is not masked"),
    Mistake(CountsCalls, "test_repeats_itself", "a call in eval mode changed the component's state"),
    Mistake(DropsOut, "test_repeats_itself", "two calls in eval mode differ in crossattn"),
    Mistake(NotFinite, "test_outputs_are_finite", "crossattn is not finite"),
    Mistake(Jitters, "test_leaves_the_global_generators_alone", "the global generator of torch"),
    Mistake(DrawsByNumpy, "test_leaves_the_global_generators_alone", "the global generator of numpy"),
    Mistake(DrawsByPython, "test_leaves_the_global_generators_alone", "the global generator of random"),
    Mistake(EditsItsInput, "test_inputs_stay_unchanged", "changed its inputs in place"),
    Mistake(ReadsAnUndeclaredKey, "test_spec_is_true", ("'weight' is no key of the kit's batch", "extends batch")),
    Mistake(TouchesMore, "test_reads_exactly_what_it_declares", "encode touches ['image'], not in reads"),
    Mistake(TouchesMore, "test_works_with_only_the_keys_it_reads", "image"),
    Mistake(TouchesLess, "test_reads_exactly_what_it_declares", "reads is {"),
    Mistake(
        ReadsByItself, "test_reads_exactly_what_it_declares", "config.reads is ('caption', 'image')", SaysAnotherKey
    ),
    Mistake(ShortNull, "test_null_matches_encode", ("null wrote crossattn float32", "as torch.zeros_like")),
    Mistake(FixedNull, "test_null_matches_encode", "null wrote crossattn float32 (2, 7, 6)"),
    Mistake(DoubleNull, "test_null_matches_encode", "float64"),
    Mistake(LeakingNull, "test_null_tells_nothing_of_the_example", "'crossattn' of the null depends on the example"),
    Mistake(BlindNull, "test_masks_attend_to_something", "a row of the mask of null attends to nothing"),
    Mistake(Constant, "test_the_condition_matters", "two different examples are encoded the same"),
    Mistake(FitsOutsideItsState, "test_state_round_trip", "unexpected keys"),
    Mistake(NotPersistent, "test_state_round_trip", "differs in crossattn"),
    Mistake(TableElsewhere, "test_state_round_trip", "a fresh component differs in crossattn"),
    Mistake(NullNeverLearns, "test_training_reaches_every_parameter", "no gradient reaches empty"),
    Mistake(Words, "test_config_check_passes", "width 6 does not suit (32, 32)", Complains),
    Mistake(ParentCalled, "test_builds_by_name", "before Module.__init__"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(ConditionerSuite, mistake, WordsConfig)


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
    assert_told(faults_of(ConditionerSuite, Palette, PaletteConfig)["test_spec_is_true"], "'palette' is no key")
