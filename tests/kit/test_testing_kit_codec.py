"""The kit's suite of codecs: the package's own codec meets it, and faulty ones are told apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from training_runs import TINY

from ldm_core.builtin.ldm_format.codec import LdmCodec
from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts.codec import ModelWeights, Recognised, Source
from ldm_core.testing import CodecSuite
from ldm_core.testing.suites.codec import random_weights


class TestNativeCodec(CodecSuite):
    component = "ldm"
    name = "run"
    broken_files = 3

    def cases(self) -> Mapping[str, ModelWeights]:
        plain = copy.deepcopy(TINY)
        return {"model": random_weights(plain), "stage": random_weights(plain, "first_stage")}


class Greedy(LdmCodec):
    """Takes whatever there is."""

    def recognise(self, source: Source) -> Recognised | None:
        return super().recognise(source) or Recognised(what="anything", holds="first_stage")


class Lossy(LdmCodec):
    """Rounds what it reads."""

    def read(self, source: Source) -> ModelWeights:
        back = super().read(source)
        return attrs.evolve(back, first_stage={k: v.bfloat16() for k, v in (back.first_stage or {}).items()})


class Careless(LdmCodec):
    """Draws from torch's generator."""

    def read(self, source: Source) -> ModelWeights:
        torch.rand(1)
        return super().read(source)


class Slow(LdmCodec):
    """Looks at every tensor to recognise a file."""

    def recognise(self, source: Source) -> Recognised | None:
        for name in source.names if source.folder else [""]:
            if name.endswith(".safetensors") or not name:
                file = source.tensors(name)
                for tensor in file.infos:
                    file.read(tensor)
        return super().recognise(source)


class Trusting(LdmCodec):
    """Stumbles over what lacks."""

    def read(self, source: Source) -> ModelWeights:
        back = super().read(source)
        assert back.first_stage is not None
        for name in random_weights(TINY, "first_stage").first_stage or {}:
            back.first_stage[name]  # a KeyError of its own
        return back


FAULTY = {
    Greedy: ("test_is_silent_about_other_formats", "as its own"),
    Lossy: ("test_reads_what_it_writes", "comes back with other values"),
    Careless: ("test_leaves_everything_as_it_was", "draws from the global generator of torch"),
    Slow: ("test_recognising_reads_no_large_tensor", "recognise read a tensor of"),
    Trusting: ("test_broken_files_are_errors", "KeyError where a CheckpointError is due"),
}


@pytest.mark.parametrize("codec", FAULTY, ids=lambda codec: codec.__name__)
def test_a_faulty_codec_is_told(codec: type[LdmCodec], tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def ldm_components(self) -> list[Component]:
            factory = f"{__name__}:{codec.__name__}"
            return [Component(kind="codec", name="faulty", config=LdmCodecConfig, factory=factory, summary="faulty")]

    made = Catalog.discover()
    made.register(Plugin(), "faulty", "faulty")
    plain: dict[str, Any] = {**TINY, "denoiser": {**TINY["denoiser"], "channels": 64}}
    stage = {"use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "norm_groups": 4}

    class Suite(CodecSuite):
        component = "faulty"
        catalog = made
        name = "run"
        broken_files = 2

        def cases(self) -> Mapping[str, ModelWeights]:
            return {"model": random_weights({**plain, "first_stage": stage} if codec is Lossy else plain)}

    test, said = FAULTY[codec]
    with pytest.raises(AssertionError, match=said):
        getattr(Suite(), test)(tmp_path)
