"""The conformance kit on this distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ldm_core.testing import ConditionerSuite, PluginSuite, batches


def vectors(index: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(index).normal(size=shape).astype(np.float32)


class TestPlugin(PluginSuite):
    module = "ldm_plugin_embedding.plugin"


class Vectors(ConditionerSuite):
    """Examples with vectors, as data sets give them."""

    ragged = False
    shape: tuple[int, ...] = (3, 6)

    def one(self, index: int) -> np.ndarray:
        return vectors(index, (1 + index % 3, 6) if self.ragged else self.shape)

    def batch(self, rows: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
        own = batches.collate([{"embedding": self.one(i)} for i in rows])
        return {**super().batch(rows, size), **own}

    def examples(self) -> list[dict[str, Any]]:
        return [{**example, "embedding": self.one(i)} for i, example in enumerate(super().examples())]


class TestTokens(Vectors, ConditionerSuite):
    component = "embedding"
    settings: ClassVar[dict[str, Any]] = {"width": 6}


class TestRagged(Vectors, ConditionerSuite):
    component = "embedding"
    settings: ClassVar[dict[str, Any]] = {"width": 6, "mask": True, "null": "learned", "normalize": True}
    ragged = True


class TestVector(Vectors, ConditionerSuite):
    component = "embedding"
    settings: ClassVar[dict[str, Any]] = {"width": 6, "to": "vector", "null": "learned"}
    shape = (6,)


class TestRetrieval(Vectors, ConditionerSuite):
    component = "embedding_rdm"
    settings: ClassVar[dict[str, Any]] = {}
    shape = (768,)
