"""The layers of a denoiser, as adapters hook into them: in copies of its modules, and by published addresses."""

from __future__ import annotations

from functools import partial

from ldm_core.contracts import Denoiser, DenoiserAnswers, configs
from ldm_core.model.shared import hooks_of, shared_copy
from ldm_core.testing.base import same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite


class LayerSuite(ModuleSuite):
    """The part of a denoiser's suite about its layers."""

    @Rule(Denoiser, "reaches its layers through itself", "call self.layer; a closure or an object keeps the original's")
    def test_a_copy_of_its_modules_calls_its_own_layers(self) -> None:
        """Copies of the modules around the same tensors compute the same, and call no layer of the original."""
        denoiser = self.build()
        given = self.inputs(range(2), self.sizes[0])
        expected = self._quietly(denoiser, given)
        called: list[str] = []
        copy = shared_copy([denoiser], hooks_of([denoiser]))[denoiser]
        for name, module in denoiser.named_modules():
            module.register_forward_hook(partial(_note, called, name))
        assert same(expected, self._quietly(copy, given)), "a copy of its modules computes something else"
        assert not called, f"a copy of its modules calls the original's {', '.join(called[:3]) or 'forward'}"

    @Rule(Denoiser, "name the places of its weights", "name parameters of the state dict, and rows that they have")
    def test_addresses_are_of_weights_that_are_there(self) -> None:
        """Each address is a weight of the denoiser, or rows of one, and no two are of the same row."""
        denoiser = self.build()
        known = configs.of(DenoiserAnswers, denoiser).addresses
        if known is None:
            return
        rows = {name: len(value) for name, value in denoiser.named_parameters()}
        seen: dict[tuple[str, int], str] = {}
        for address, place in known().items():
            assert place.parameter in rows, f"address '{address}' is of '{place.parameter}', which is no parameter"
            for row in place.index or range(rows[place.parameter]):
                assert 0 <= row < rows[place.parameter], f"address '{address}' has row {row} of {rows[place.parameter]}"
                other = seen.setdefault((place.parameter, row), address)
                assert other == address, f"addresses '{other}' and '{address}' share row {row} of '{place.parameter}'"


def _note(called: list[str], name: str, *_: object) -> None:
    called.append(name)
