"""The built-in diffusion mathematics in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import (
    GuidanceSuite,
    ObjectiveSuite,
    ParameterizationSuite,
    SamplerSuite,
    ScheduleSuite,
    TimeGridSuite,
)


class TestVP(ScheduleSuite):
    component = "vp"
    preserves_variance = True


class TestVPCosine(ScheduleSuite):
    component = "vp_cosine"
    preserves_variance = True


class TestVPStableDiffusion(ScheduleSuite):
    component = "vp_sd"
    preserves_variance = True


class TestVPZeroTerminal(ScheduleSuite):
    component = "vp"
    preserves_variance = True
    settings = MappingProxyType({"zero_terminal": True})


class TestEps(ParameterizationSuite):
    component = "eps"


class TestX0(ParameterizationSuite):
    component = "x0"


class TestV(ParameterizationSuite):
    component = "v"


class TestSimple(ObjectiveSuite):
    component = "simple"


class TestSimpleL1(ObjectiveSuite):
    component = "simple"
    settings = MappingProxyType({"loss": "l1", "weighting": "x0"})


class TestSimpleMinSNR(ObjectiveSuite):
    component = "simple"
    settings = MappingProxyType({"loss": "huber", "weighting": "min_snr", "times": "logit_normal"})


class TestLegacy(TimeGridSuite):
    component = "legacy"


class TestLeading(TimeGridSuite):
    component = "leading"


class TestTrailing(TimeGridSuite):
    component = "trailing"


class TestLinspace(TimeGridSuite):
    component = "linspace"


class TestDDPM(SamplerSuite):
    component = "ddpm"


class TestDDPMLarge(SamplerSuite):
    component = "ddpm"
    settings = MappingProxyType({"variance": "large"})
    exact_noise = False


class TestNoGuidance(GuidanceSuite):
    component = "none"
