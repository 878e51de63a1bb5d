"""The weights of a denoiser by their published addresses, as adapters ask for them."""

from __future__ import annotations

from ldm_core.contracts import Denoiser, DenoiserAnswers, configs
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite


class AddressSuite(ModuleSuite):
    """The part of a denoiser's suite about its addresses."""

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
