"""The core's own runtimes in the conformance kit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MappingProxyType

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401

from ldm_core.testing import RuntimeSuite


class TestTorch(RuntimeSuite):
    component = "torch"
    bounds = MappingProxyType({"fp32": 0.0, "bf16": 0.02, "fp16": 0.005})


class TestCompiled(RuntimeSuite):
    """Graphs as torch makes them, computed by torch itself: inductor's compiler takes half a minute for them."""

    component = "compiled"
    bounds = MappingProxyType({"fp32": 1e-6, "bf16": 0.02, "fp16": 0.005})

    @pytest.fixture(autouse=True)
    def by_torch(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        yield
        torch._dynamo.reset()
