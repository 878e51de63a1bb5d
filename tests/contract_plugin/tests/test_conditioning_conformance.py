"""The conformance kit on the parts that use the doors of conditioning."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.contracts import CondSpec
from ldm_core.testing import ConditionerSuite, DenoiserSuite


class TestLetters(ConditionerSuite):
    component = "letters"


class TestPaddedLettersByWidth(ConditionerSuite):
    component = "letters"
    settings = MappingProxyType({"padded": True, "join": "width", "pad_to": 12, "width": 5})


class TestLettersOfARole(ConditionerSuite):
    component = "letters"
    settings = MappingProxyType({"role": "text"})


class TestPatches(ConditionerSuite):
    component = "patches"


class TestTwoRoles(DenoiserSuite):
    component = "two_roles"
    cond_spec = CondSpec(tokens={"text": 8, "picture": 6})


class TestNoisySmall(ConditionerSuite):
    component = "noisy_small"


class TestSizes(ConditionerSuite):
    component = "sizes"
