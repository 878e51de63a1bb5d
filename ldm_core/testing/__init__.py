"""The conformance kit: pytest classes that hold a component to its contract. Needs ``ldm-core[testing]``.

A plugin author subclasses the suite of the component's kind and sets two attributes::

    # tests/test_conformance.py
    from ldm_core.testing import ConditionerSuite, PluginSuite


    class TestPlugin(PluginSuite):
        module = "my_package.plugin"


    class TestPalette(ConditionerSuite):
        component = "palette"
        settings = {"width": 8}
        # A known failure with its reason; once the test passes, this declaration fails.
        xfail = {"test_training_reaches_every_parameter": "the table of colours is fixed"}

        def batch(self, rows, size):  # only for keys that the standard batch lacks
            return {**super().batch(rows, size), "palette": [palette_of(i) for i in rows]}

A standard test cannot be overridden: the class would raise a TypeError with the test's name. A failing test quotes the
line of the contract and says how to keep to it.
"""

import pytest

# packages stand for all their files
for _name in [
    "annotations",
    "base",
    "config_class",
    "degradations",
    "metrics",
    "promises",
    "runtimes",
    "stages",
    "suites",
    "tensors",
]:
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from ldm_core.testing.annotations.suite import AnnotationSuite  # noqa: E402
from ldm_core.testing.base import Suite  # noqa: E402  (rewriting comes before the first import)
from ldm_core.testing.degradations.suite import DegradationSuite  # noqa: E402
from ldm_core.testing.metrics.suite import Known, MetricSuite  # noqa: E402
from ldm_core.testing.runtimes.suite import RuntimeSuite  # noqa: E402
from ldm_core.testing.stages.auxiliary import AuxiliaryLossSuite  # noqa: E402
from ldm_core.testing.stages.decoder import DecoderSuite  # noqa: E402
from ldm_core.testing.stages.objective import StageObjectiveSuite  # noqa: E402
from ldm_core.testing.suites.adapter import AdapterSuite  # noqa: E402
from ldm_core.testing.suites.codec import CodecSuite  # noqa: E402
from ldm_core.testing.suites.conditioner import ConditionerSuite  # noqa: E402
from ldm_core.testing.suites.dataset import DatasetSuite  # noqa: E402
from ldm_core.testing.suites.denoiser import DenoiserSuite  # noqa: E402
from ldm_core.testing.suites.first_stage import FirstStageSuite  # noqa: E402
from ldm_core.testing.suites.guidance import GuidanceSuite  # noqa: E402
from ldm_core.testing.suites.objective import ObjectiveSuite  # noqa: E402
from ldm_core.testing.suites.observer import ObserverSuite  # noqa: E402
from ldm_core.testing.suites.parameterization import ParameterizationSuite  # noqa: E402
from ldm_core.testing.suites.plugin import PluginSuite  # noqa: E402
from ldm_core.testing.suites.sampler import SamplerSuite  # noqa: E402
from ldm_core.testing.suites.schedule import ScheduleSuite  # noqa: E402
from ldm_core.testing.suites.time_grid import TimeGridSuite  # noqa: E402
from ldm_core.testing.tensors import ModuleSuite, TensorSuite  # noqa: E402

__all__ = [
    "AdapterSuite",
    "AnnotationSuite",
    "AuxiliaryLossSuite",
    "CodecSuite",
    "ConditionerSuite",
    "DatasetSuite",
    "DecoderSuite",
    "DegradationSuite",
    "DenoiserSuite",
    "FirstStageSuite",
    "GuidanceSuite",
    "Known",
    "MetricSuite",
    "ModuleSuite",
    "ObjectiveSuite",
    "ObserverSuite",
    "ParameterizationSuite",
    "PluginSuite",
    "RuntimeSuite",
    "SamplerSuite",
    "ScheduleSuite",
    "StageObjectiveSuite",
    "Suite",
    "TensorSuite",
    "TimeGridSuite",
]
