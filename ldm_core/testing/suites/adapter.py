"""The conformance suite of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from ldm_core.config.structure import structure
from ldm_core.contracts import Adapter, AdapterAnswers, AdapterConfig, CondSpec, Site, configs
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import batches, toys
from ldm_core.testing.base import installed, largest_difference, randomize, same, seeded
from ldm_core.testing.promises.runs import AdapterRuns
from ldm_core.testing.rules import Rule


class AdapterSuite(AdapterRuns):
    """Subclass it, set `component` and `settings`; `denoiser` and `denoiser_settings` name the adapted network.

    :meth:`cond` may be extended by parts that the adapter reads; it is no test.
    """

    kind = "adapter"
    protocol: ClassVar[type] = Adapter
    denoiser: ClassVar[str] = "unet"
    denoiser_settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [1], "heads": 2, "norm_groups": 8}
    )
    cond_spec: ClassVar[CondSpec] = CondSpec(crossattn=8)

    def cond(self, rows: Sequence[int]) -> Cond:
        """The bundle that reaches the model."""
        width = self.cond_spec.crossattn
        return Cond(crossattn=batches.normal(rows, (5, width), "tokens") if width else None)

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
        """An attached adapter with trained weights changes the estimate, or what a run comes to."""
        model, adapter = self.model(), self._learned()
        assert self._matters(model, model.beside({"it": adapter})), "the attached adapter changes nothing"

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

    @Rule(
        Adapter,
        "leaves the estimate bit for bit that of the base at 0",
        "add nothing where the scale is 0, and read the scale at each call, not when attached",
    )
    def test_at_scale_0_it_is_the_base(self) -> None:
        """An adapter with a scale changes nothing at 0, and what it did at its own scale, set while attached."""
        model, adapter = self.model(), self._learned()
        own = configs.of(AdapterAnswers, adapter).scale
        if own is None:
            return
        plain = self._estimate(model)
        adapter.attach(model)
        adapted = self._estimate(model)
        adapter.scale = 0.0
        assert same(plain, self._estimate(model)), "at scale 0 the estimate is not the base's, bit for bit"
        adapter.scale = own
        assert same(adapted, self._estimate(model)), "set back to its scale the adapter does something else"

    @Rule(Adapter, "A config with a field `scale` lets a recipe set the strength", "start with the config's scale")
    def test_the_config_sets_the_scale(self) -> None:
        """A config's scale is the adapter's when it is built."""
        if configs.of(AdapterConfig, self.config()).scale is None:
            return
        scale = configs.of(AdapterAnswers, self.build({"scale": 0.25})).scale
        assert scale in (None, 0.25), f"the config says scale 0.25, and the adapter {scale}"

    @Rule(
        Adapter, "never writes into a tensor of the model", "keep what changes in the adapter; fuse by new parameters"
    )
    def test_two_models_do_not_disturb_each_other(self) -> None:
        """Models that share their tensors, without an adapter, with one and with another one, each do their own."""
        model, adapter, other = self.model(), self._learned(), self._learned()
        if _is_module(other):
            randomize(other, 6)
        plain = self._estimate(model)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        one = model.beside({"one": adapter})
        first = self._estimate(one)
        two = model.beside({"two": other})
        self._estimate(two)
        assert same(plain, self._estimate(model)), (
            "the model without the adapter does something else beside one with it"
        )
        assert same(first, self._estimate(one)), "another adapter in a model beside it changes what this one does"
        assert same(state, dict(model.state_dict())), "the adapter wrote into tensors that models share"

    @Rule(
        Adapter,
        "the estimate is that of before to 1e-5",
        "layer.weight = nn.Parameter(weight + change), and no hook besides",
    )
    def test_fused_it_does_the_same(self) -> None:
        """Fused weights give the estimate of the attached adapter, in this model alone; unfused, all is as before."""
        model, adapter = self.model(), self._learned()
        answers = configs.of(AdapterAnswers, adapter)
        if answers.fuse is None:
            return
        assert answers.unfuse is not None, "an adapter with fuse needs unfuse"
        plain = self._estimate(model)
        weights = dict(model.named_parameters())
        copies = {name: value.detach().clone() for name, value in weights.items()}
        beside = model.beside({"it": adapter})
        adapted = self._estimate(beside)
        answers.fuse(beside)
        far = largest_difference(adapted, self._estimate(beside)) / max(1.0, float(adapted.abs().max()))
        assert far < 1e-5, f"fused, the estimate is off by {far:.2g}"
        adapter.detach()
        assert not same(plain, self._estimate(beside)), "the fused change is gone with the hooks"
        assert same(copies, weights), "fuse wrote into tensors that models share"
        assert same(plain, self._estimate(model)), "fuse changed a model beside it"
        answers.unfuse(beside)
        own = {name: value for name, value in beside.named_parameters() if not name.startswith("adapters.")}
        assert all(own[name] is value for name, value in weights.items()), "unfuse brings other parameters back"
        assert same(adapted, self._estimate(beside)), "unfused, the estimate is not that of before"


def _is_module(adapter: Any) -> bool:
    return isinstance(adapter, nn.Module)
