"""The conformance kit on the parts that give optional answers."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import ConditionerSuite, DenoiserSuite, FirstStageSuite, ObjectiveSuite, ScheduleSuite


class TestResolutionFlow(ScheduleSuite):
    component = "resolution_flow"


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
