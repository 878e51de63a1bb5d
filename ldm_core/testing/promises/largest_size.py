"""A standard test of denoisers that have a largest size."""

from __future__ import annotations

import pytest

from ldm_core.contracts import Denoiser, DenoiserConfig, configs
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite


class LargestSizeSuite(ModuleSuite):
    """The promise of a config's `max_size`."""

    @Rule(
        Denoiser.forward,
        "It takes every size up to the config's `max_size`",
        "let max_size be the size of the table, and cut the table to the latents' size",
    )
    def test_takes_every_size_up_to_its_largest(self) -> None:
        """Built for one size, it takes the largest latents and smaller ones, all of their shape and finite."""
        most = configs.of(DenoiserConfig, self.config()).max_size
        if most is None:
            pytest.skip("its config names no max_size")
        factor, denoiser = configs.of(DenoiserConfig, self.config()).factor, self.build()
        smaller = tuple(max(factor, cells // 2 // factor * factor) for cells in most)
        for cells in (most, (most[0], *smaller[1:]), smaller):
            size = tuple(n * stride for n, stride in zip(cells, self.latent.stride, strict=True))
            for name, value in self._quietly(denoiser, self.inputs(range(1), size)).items():
                seen = tuple(value.shape[2:])
                assert seen == tuple(cells), f"{name} lies on {list(seen)} for latents of {list(cells)}"
                assert bool(value.isfinite().all()), f"{name} is not finite for latents of {list(cells)}"
