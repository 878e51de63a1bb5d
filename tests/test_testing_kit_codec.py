"""The kit's suite of codecs: the package's own codec meets it, and faulty ones are told apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from training_runs import TINY

from ldm_core.codec import ModelWeights
from ldm_core.testing import CodecSuite
from ldm_core.testing.codec import random_weights


class TestNativeCodec(CodecSuite):
    component = "ldm"
    name = "run"
    broken_files = 3

    def cases(self) -> Mapping[str, ModelWeights]:
        plain = copy.deepcopy(TINY)
        return {"model": random_weights(plain), "stage": random_weights(plain, "first_stage")}
