"""The U-Net in the conformance kit, with and without cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import attrs

from ldm_core.contracts import CondSpec, LatentSpec
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import DenoiserSuite
from ldm_core.testing.batches import normal

TINY = MappingProxyType(
    {"channels": 16, "channel_mult": (1, 2), "res_blocks": 1, "attention": (1,), "heads": 2, "norm_groups": 8}
)


class TestUNet(DenoiserSuite):
    component = "unet"
    settings = TINY
    latent = LatentSpec(3, (4, 4))

    def conditioning(self) -> CondSpec:
        return attrs.evolve(super().conditioning(), residuals=("in.1", "skip.0", "mid"))

    def cond(self, rows: Sequence[int], size: tuple[int, ...]) -> Cond:
        h, w = self.latent.shape(size)[1:]
        residuals = {
            "in.1": normal(rows, (16, h, w), "in.1"),
            "skip.0": normal(rows, (16, h, w), "skip.0"),
            "mid": normal(rows, (32, h // 2, w // 2), "mid"),
        }
        return super().cond(rows, size)._replace(residuals=residuals)


class TestUnconditionalUNet(DenoiserSuite):
    component = "unet"
    settings = MappingProxyType({**TINY, "scale_shift_norm": True, "resblock_updown": True})
    cond_spec = CondSpec()
    latent = LatentSpec(4, (4, 4))


class TestUNetWithAnInputSkip(DenoiserSuite):
    component = "unet"
    settings = MappingProxyType({**TINY, "input_skip": True})
    latent = LatentSpec(3, (4, 4))
