"""The suite of adapters: right ones pass, and each mistake fails its test with the contract's line."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from planted import Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn

from ldm_core.contracts import Adapter, Site
from ldm_core.testing import AdapterSuite
from ldm_core.testing.running import catalog_of
from ldm_core.testing.toys import ToyDenoiser


@attrs.frozen(kw_only=True)
class LoRAConfig:
    rank: int = 2


class LoRA(Adapter, nn.Module):
    """A low-rank term beside the layer that mixes tokens in, added by a forward hook."""

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__()
        self.down = nn.Linear(site.cond.crossattn, config.rank, bias=False)
        self.up = nn.Linear(config.rank, 4, bias=False)
        nn.init.zeros_(self.up.weight)
        self.handles: list[Any] = []

    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(target.register_forward_hook(lambda m, args, out: out + self.up(self.down(args[0]))))

    def detach(self) -> None:
        while self.handles:
            self.handles.pop().remove()


class StaysAttached(LoRA):
    def detach(self) -> None:
        self.handles.clear()


class EditsWeights(LoRA):
    def attach(self, model: Any) -> None:
        self.target = [model.denoiser.from_tokens.weight]
        with torch.no_grad():
            self.target[0].add_(self.up.weight @ self.down.weight)

    def detach(self) -> None:
        with torch.no_grad():
            self.target[0].sub_(self.up.weight @ self.down.weight)


class RegistersItself(LoRA):
    def attach(self, model: Any) -> None:
        super().attach(model)
        model.denoiser.lora = self


class DoesNothing(LoRA):
    def attach(self, model: Any) -> None:
        pass


class Frozen(LoRA):
    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(
            target.register_forward_hook(lambda m, args, out: out + self.up(self.down(args[0])).detach())
        )


@attrs.frozen(kw_only=True)
class AdaptedConfig:
    channels: int = 4


def adapted(config: AdaptedConfig, site: Site) -> ToyDenoiser:
    assert site.latent is not None
    return ToyDenoiser(site.latent, site.cond)


class OneHookStays(LoRA):
    """Attached twice, detached once."""

    def attach(self, model: Any) -> None:
        super().attach(model)
        super().attach(model)

    def detach(self) -> None:
        self.handles.pop().remove()
        self.handles.clear()


@attrs.frozen(kw_only=True)
class ScaledConfig(LoRAConfig):
    scale: float = 0.5


class Scaled(LoRA):
    """With a strength, and fused into the layer's weight."""

    def __init__(self, config: ScaledConfig, site: Site) -> None:
        super().__init__(config, site)
        self.scale = config.scale
        self.kept: Any = None

    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(target.register_forward_hook(lambda m, args, out: out + self.term(args[0])))

    def term(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.down(x))

    def change(self) -> Tensor:
        return self.scale * self.up.weight.detach() @ self.down.weight.detach()

    def fuse(self, model: Any) -> None:
        layer = model.denoiser.from_tokens
        self.kept = layer.weight
        layer.weight = nn.Parameter(layer.weight.detach() + self.change(), requires_grad=layer.weight.requires_grad)
        self.detach()

    def unfuse(self, model: Any) -> None:
        model.denoiser.from_tokens.weight = self.kept
        self.attach(model)


class ScaledOnce(Scaled):
    """The strength is read when it is attached."""

    def attach(self, model: Any) -> None:
        scale, target = self.scale, model.denoiser.from_tokens
        self.handles.append(target.register_forward_hook(lambda m, a, out: out + scale * self.up(self.down(a[0]))))


class NeverOff(Scaled):
    def term(self, x: Tensor) -> Tensor:
        return (self.scale + 1e-3) * self.up(self.down(x))


class DeafToItsConfig(Scaled):
    def __init__(self, config: ScaledConfig, site: Site) -> None:
        super().__init__(config, site)
        self.scale = 1.0


class LastOneActs(Scaled):
    """Each hook asks for the adapter that was attached last, in whatever model."""

    last: ClassVar[list[Any]] = []

    def attach(self, model: Any) -> None:
        self.last.append(self)
        target = model.denoiser.from_tokens
        self.handles.append(target.register_forward_hook(lambda m, args, out: out + self.last[-1].term(args[0])))


class FusesInPlace(Scaled):
    def fuse(self, model: Any) -> None:
        with torch.no_grad():
            model.denoiser.from_tokens.weight.add_(self.change())
        self.detach()


class FusesTwice(Scaled):
    """The hook stays."""

    def fuse(self, model: Any) -> None:
        super().fuse(model)
        self.attach(model)


class UnfusesBySubtraction(Scaled):
    def unfuse(self, model: Any) -> None:
        layer = model.denoiser.from_tokens
        layer.weight = nn.Parameter(layer.weight.detach() - self.change())
        self.attach(model)


class ForgetsToUnfuse(Scaled):
    unfuse = None  # type: ignore[assignment]


class KeepsItsScale(LoRA):
    """A strength that is drawn anew and no state dict holds."""

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__(config, site)
        self.strength = float(torch.rand(()))

    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(
            target.register_forward_hook(lambda m, args, out: out + self.strength * self.up(self.down(args[0])))
        )


def around(adapter: type, config: type = LoRAConfig) -> dict[str, Any]:
    """A catalog with the adapter and the denoiser that it is tried on."""
    catalog = catalog_of("adapter", "toy", config, adapter)
    denoiser = catalog_of("denoiser", "toy_net", AdaptedConfig, adapted)
    catalog.register(denoiser.manager.get_plugins().pop(), "denoiser")
    return {"catalog": catalog, "denoiser": "toy_net", "denoiser_settings": {}}


def test_a_right_adapter_passes() -> None:
    assert not faults_of(AdapterSuite, LoRA, LoRAConfig, **around(LoRA))


@mistakes(
    Mistake(StaysAttached, "test_detaching_restores_bit_for_bit", "after detach the estimate is not what it was"),
    Mistake(OneHookStays, "test_detaching_restores_bit_for_bit", "after detach the estimate is not what it was"),
    Mistake(EditsWeights, "test_attaching_keeps_keys_and_weights", "attaching changed the model's weights"),
    Mistake(RegistersItself, "test_attaching_keeps_keys_and_weights", "state keys changed"),
    Mistake(DoesNothing, "test_attached_it_matters", "the attached adapter changes nothing"),
    Mistake(Frozen, "test_training_reaches_every_parameter", "no gradient reaches the adapter"),
    Mistake(KeepsItsScale, "test_state_round_trip", "a fresh adapter does something else"),
)
def test_a_mistake_in_an_adapter_is_found(mistake: Mistake) -> None:
    assert_found(AdapterSuite, mistake, LoRAConfig, **around(mistake.make))  # type: ignore[arg-type]


def test_a_right_adapter_with_a_scale_passes() -> None:
    assert not faults_of(AdapterSuite, Scaled, ScaledConfig, **around(Scaled, ScaledConfig))


@mistakes(
    Mistake(ScaledOnce, "test_at_scale_0_it_is_the_base", "at scale 0 the estimate is not the base's"),
    Mistake(NeverOff, "test_at_scale_0_it_is_the_base", "at scale 0 the estimate is not the base's"),
    Mistake(DeafToItsConfig, "test_the_config_sets_the_scale", "the config says scale 0.25, and the adapter 1.0"),
    Mistake(LastOneActs, "test_two_models_do_not_disturb_each_other", "changes what this one does"),
    Mistake(FusesInPlace, "test_fused_it_does_the_same", "fuse wrote into tensors that models share"),
    Mistake(FusesTwice, "test_fused_it_does_the_same", "fused, the estimate is off by"),
    Mistake(UnfusesBySubtraction, "test_fused_it_does_the_same", "unfuse brings other parameters back"),
    Mistake(ForgetsToUnfuse, "test_fused_it_does_the_same", "an adapter with fuse needs unfuse"),
)
def test_a_mistake_in_an_adapter_with_a_scale_is_found(mistake: Mistake) -> None:
    assert_found(AdapterSuite, mistake, ScaledConfig, **around(mistake.make, ScaledConfig))  # type: ignore[arg-type]
