"""The identity first stage in the conformance kit."""

from __future__ import annotations

from ldm_core.testing import FirstStageSuite


class TestIdentity(FirstStageSuite):
    component = "identity"
    sizes = ((8, 8), (7, 9))
