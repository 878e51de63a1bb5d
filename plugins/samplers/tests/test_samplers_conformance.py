"""Every sampler and every time grid of the distribution in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import PluginSuite, SamplerSuite, TimeGridSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-samplers"


class TestEuler(SamplerSuite):
    component = "euler"


class TestEulerAncestral(SamplerSuite):
    component = "euler_ancestral"


class TestEulerAncestralInPart(SamplerSuite):
    component = "euler_ancestral"
    settings = MappingProxyType({"eta": 0.4})


class TestHeun(SamplerSuite):
    component = "heun"
    order = 2.0


class TestPLMS(SamplerSuite):
    component = "plms"
    order = 2.0


class TestDPMSolverPP2M(SamplerSuite):
    component = "dpm_solver_pp_2m"
    order = 2.0
    spacing = "log_snr"


class TestDPMSolverPP2MSDE(SamplerSuite):
    component = "dpm_solver_pp_2m_sde"


class TestDPMSolverPP2MSDEInPart(SamplerSuite):
    component = "dpm_solver_pp_2m_sde"
    settings = MappingProxyType({"eta": 0.5})


class TestUniPC1(SamplerSuite):
    component = "unipc"
    settings = MappingProxyType({"order": 1})


class TestUniPC2(SamplerSuite):
    component = "unipc"
    order = 2.0
    spacing = "log_snr"


class TestUniPC2Bh1(SamplerSuite):
    component = "unipc"
    settings = MappingProxyType({"variant": "bh1"})
    order = 2.0
    spacing = "log_snr"


class TestUniPC3(SamplerSuite):
    component = "unipc"
    settings = MappingProxyType({"order": 3, "lower_order_final": False})
    order = 3.0
    spacing = "log_snr"


class TestUniPC3WithoutCorrector(SamplerSuite):
    component = "unipc"
    settings = MappingProxyType({"order": 3, "corrector": False, "lower_order_final": False})
    order = 3.0
    spacing = "log_snr"


class TestKarras(TimeGridSuite):
    component = "karras"


class TestLogSNR(TimeGridSuite):
    component = "log_snr"


class TestShifted(TimeGridSuite):
    component = "shifted"


class TestShiftedDown(TimeGridSuite):
    component = "shifted"
    settings = MappingProxyType({"shift": 0.5})


class TestShiftedBySize(TimeGridSuite):
    component = "shifted"
    settings = MappingProxyType({"shift": 1.6, "base_cells": 1024, "top_cells": 16384, "top_shift": 3.2})


class TestShiftedByTheRoot(TimeGridSuite):
    component = "shifted"
    settings = MappingProxyType({"shift": 1.0, "base_cells": 256})


class TestQuad(TimeGridSuite):
    component = "quad"
