"""The conformance suite of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ldm_core.config.structure import structure
from ldm_core.contracts import Adapter, CondSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import batches, toys
from ldm_core.testing.base import Suite, installed, largest_difference, randomize, same, seeded
from ldm_core.testing.rules import Rule


class AdapterSuite(Suite):
    """Subclass it, set `component` and `settings`; `denoiser` and `denoiser_settings` name the adapted network.

    :meth:`cond` may be extended by parts that the adapter reads; it is no test.
    """

    kind = "adapter"
    protocol: ClassVar[type] = Adapter
    denoiser: ClassVar[str] = "unet"
    denoiser_settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [1, 2], "heads": 2, "norm_groups": 8}
    )
    cond_spec: ClassVar[CondSpec] = CondSpec(crossattn=8)

    def cond(self, rows: Sequence[int]) -> Cond:
        """The bundle that reaches the model."""
        return Cond(crossattn=batches.normal(rows, (5, self.cond_spec.crossattn), "tokens"))

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """Size, latents and merged conditioning: an adapter is built last."""
        return Site(size=size or self.sizes[0], channels=self.image_channels, latent=self.latent, cond=self.cond_spec)

    def model(self) -> Any:
        """The model to adapt, its weights the same each time."""
        entry, preset = (self.catalog or installed()).get("denoiser", self.denoiser)
        config = preset or structure(dict(self.denoiser_settings), entry.component.config)
        with seeded(3):
            denoiser = entry.component.load()(config, self.site())
        randomize(denoiser, 3)
        return toys.toy_model(self.latent, denoiser=denoiser)

    @Rule(
        Adapter.attach,
        "base modules, state keys and weights stay",
        "hold the model by a hook (register_forward_hook), and change neither its modules nor its weights",
    )
    def test_attaching_keeps_keys_and_weights(self) -> None:
        """While attached, the model's own modules, state keys and weights stay as they are."""
        model, adapter = self.model(), self._learned()
        modules = [n for n, _ in model.named_modules()]
        before = {k: v.clone() for k, v in model.state_dict().items()}
        adapter.attach(model)
        after = model.state_dict()
        assert list(before) == list(after), f"state keys changed: {sorted(before.keys() ^ after.keys())[:4]}"
        assert same(before, dict(after)), "attaching changed the model's weights"
        assert modules == [n for n, _ in model.named_modules()], "attaching changed the model's modules"

    @Rule(Adapter.attach, "Attached, it changes the estimate", "hook modules that the model calls")
    def test_attached_it_matters(self) -> None:
        """An attached adapter with trained weights changes the estimate."""
        model, adapter = self.model(), self._learned()
        plain = self._estimate(model)
        adapter.attach(model)
        assert largest_difference(plain, self._estimate(model)) > 1e-6, "the attached adapter changes nothing"

    @Rule(Adapter.detach, "Take all hooks away", "keep the handles of all hooks, and remove each of them in detach")
    def test_detaching_restores_bit_for_bit(self) -> None:
        """Attached, run and detached, twice over, it leaves the model as it was."""
        model, adapter = self.model(), self._learned()
        plain, state = self._estimate(model), {k: v.clone() for k, v in model.state_dict().items()}
        for _ in range(2):
            adapter.attach(model)
            self._estimate(model)
            adapter.detach()
            assert same(plain, self._estimate(model)), "after detach the estimate is not what it was"
            assert same(state, dict(model.state_dict())), "after detach the weights are not what they were"

    @Rule(Adapter.attach, "get gradients through the model", "detach nothing in the hooks, and use every parameter")
    def test_training_reaches_every_parameter(self) -> None:
        """The adapter's parameters get gradients through the model, also where the model's are frozen."""
        model, adapter = self.model(), self._learned()
        if not _is_module(adapter) or not list(adapter.parameters()):
            return
        model.requires_grad_(False)
        adapter.requires_grad_(True)
        adapter.attach(model)
        x, t = self._given()
        loss = model(x, t, self.cond(range(2))).x0.square().sum()
        assert loss.requires_grad, "no gradient reaches the adapter: the estimate has none"
        loss.backward()
        lost = [n for n, p in adapter.named_parameters() if p.grad is None]
        assert not lost, f"no gradient reaches {', '.join(lost)}"

    @Rule(
        Adapter.attach,
        "holds all that it learned",
        "keep what is learned in parameters and buffers of the adapter, a torch.nn.Module",
    )
    def test_state_round_trip(self) -> None:
        """A fresh adapter given the state dict does the same."""
        model, adapter = self.model(), self._learned()
        if not _is_module(adapter):
            return
        adapter.attach(model)
        expected = self._estimate(model)
        state = {k: v.clone() for k, v in adapter.state_dict().items()}
        adapter.detach()
        other = self.build(seed=8)
        other.attach(model)  # weights may be made when the model is known
        other.load_state_dict(state)
        assert same(expected, self._estimate(model)), "after load_state_dict a fresh adapter does something else"

    def _learned(self) -> Any:
        adapter = self.build()
        if _is_module(adapter):
            if not list(adapter.parameters()):
                scratch = self.model()
                adapter.attach(scratch)
                adapter.detach()
            randomize(adapter, 5)
        return adapter

    def _given(self) -> tuple[Tensor, Tensor]:
        x = batches.normal(range(2), self.latent.shape(self.sizes[0]), "x")
        return x, torch.tensor([300.0, 700.0], dtype=torch.float64)

    def _estimate(self, model: Any) -> Tensor:
        with torch.no_grad():
            x, t = self._given()
            return model(x, t, self.cond(range(2))).x0


def _is_module(adapter: Any) -> bool:
    return isinstance(adapter, nn.Module)
