"""The conformance kit on this distribution."""

from types import MappingProxyType

from ldm_core.testing import DegradationSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_degradations.plugin"


class TestBicubic(DegradationSuite):
    component = "bicubic"


class TestGrey(DegradationSuite):
    component = "grey"
    factors = (1, 2)


class TestBsr(DegradationSuite):
    component = "bsr"
    settings = MappingProxyType({"poisson": 1.0})


class TestBsrLight(DegradationSuite):
    component = "bsr_light"


class TestIrregular(DegradationSuite):
    component = "irregular_thick"


class TestBoxes(DegradationSuite):
    component = "boxes"


class TestHalf(DegradationSuite):
    component = "half"


class TestOutpainting(DegradationSuite):
    component = "outpainting"


class TestMaskMixture(DegradationSuite):
    component = "mask_mixture"
