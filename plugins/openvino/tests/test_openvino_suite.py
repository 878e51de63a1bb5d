"""The runtime in the conformance kit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from ldm_plugin_openvino import cache, conversion, library
from one_thread import each_module as _one_thread  # noqa: F401

from ldm_core.errors import ConfigError
from ldm_core.testing import RuntimeSuite


class TestOpenVINO(RuntimeSuite):
    component = "openvino"
    bounds = MappingProxyType({"fp32": 1e-5, "bf16": 0.03})
    """Nearer than its own check asks for: these networks are small."""

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
        try:
            library.library()
        except ConfigError as error:
            pytest.skip(str(error))
        assert all(self.bounds[name] <= bound for name, bound in conversion.BOUNDS.items())
        yield
