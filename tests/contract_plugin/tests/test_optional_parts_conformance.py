"""The conformance kit on the parts that give optional answers."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from ldm_core.testing import (
    AnnotationSuite,
    ConditionerSuite,
    DecoderSuite,
    DegradationSuite,
    DenoiserSuite,
    FirstStageSuite,
    MetricSuite,
    ObjectiveSuite,
    ScheduleSuite,
)
from ldm_core.testing.metrics.suite import Known


class TestResolutionFlow(ScheduleSuite):
    component = "resolution_flow"


class TestFlatColours(DecoderSuite):
    component = "flat_colours"


class TestPositionTable(DenoiserSuite):
    component = "position_table"


class TestOwnTeacher(ObjectiveSuite):
    component = "own_teacher"


class TestSampledTeacher(ObjectiveSuite):
    component = "own_teacher"
    settings = MappingProxyType({"samples": True})


class TestRepresentation(ConditionerSuite):
    component = "representation"


class TestAlignment(ObjectiveSuite):
    component = "alignment"
    extras = MappingProxyType({"representation": (12,)})


class TestLoudStage(FirstStageSuite):
    component = "loud_stage"


class TestLoudClass(ConditionerSuite):
    component = "loud_class"


class TestBF16Table(DenoiserSuite):
    component = "bf16_table"


class TestBrightness(MetricSuite):
    component = "brightness"

    def known(self) -> Known:
        """Means 0.4 and 0.1, deviations 0.1 and 0.3: 0.3² + 0.2²."""
        own, against = {"level": np.array([0.3, 0.5])}, {"level": np.array([-0.2, 0.4])}
        return Known(own, against, {"brightness": 0.13})


class TestDrizzle(DegradationSuite):
    component = "drizzle"


class TestCornerList(AnnotationSuite):
    component = "corner_list"
    files = MappingProxyType({"boxes.lst": b"corners of: cat, dog\na.png|dog|1|2|3|4\nb.png|cat|0|0|9|9\n"})
    pictures = ("a.png", "b.png")
    objects = MappingProxyType({"a.png": 1, "b.png": 1})
