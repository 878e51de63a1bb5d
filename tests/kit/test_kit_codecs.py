"""The suite of codecs: the package's own passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from planted import Mistake, assert_found, mistakes
from training_runs import TINY

from ldm_core.builtin.ldm_format.codec import LdmCodec
from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts.codec import ModelWeights, Recognised, Source, Written
from ldm_core.testing import CodecSuite
from ldm_core.testing.suites.codec import random_weights


class TestNativeCodec(CodecSuite):
    component = "ldm"
    name = "run"
    broken_files = 3

    def cases(self) -> Mapping[str, ModelWeights]:
        plain = copy.deepcopy(TINY)
        cases = {"model": random_weights(plain), "stage": random_weights(plain, "first_stage")}
        if "lora" in Catalog.discover().names("adapter"):  # the test plugin's
            cases["adapter"] = random_weights({**plain, "adapters": [{"use": "lora", "targets": ["0"]}]}, "adapter")
        return cases


class Greedy(LdmCodec):
    """Takes whatever there is."""

    def recognise(self, source: Source) -> Recognised | None:
        return super().recognise(source) or Recognised(what="anything", holds="first_stage")


class Lossy(LdmCodec):
    """Rounds what it reads."""

    def read(self, source: Source) -> ModelWeights:
        back = super().read(source)
        return attrs.evolve(back, first_stage={k: v.bfloat16() for k, v in (back.first_stage or {}).items()})


class LosesAdapters(LdmCodec):
    """Takes an adapter for a first stage."""

    def recognise(self, source: Source) -> Recognised | None:
        found = super().recognise(source)
        return None if found is None else attrs.evolve(found, holds="first_stage")


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


class Unpickles(LdmCodec):
    """Reads a file of torch that lies where its weights should be, with everything in it."""

    def recognise(self, source: Source) -> Recognised | None:
        for name in source.names:
            if (data := source.text(name)) is not None and data[:1] == b"\x80" and data[1] < 6:
                pickle.loads(data)
        return super().recognise(source)


class Drops(LdmCodec):
    """Writes what the recipe's parts are made of, and nothing else."""

    def write(self, weights: ModelWeights, name: str) -> Written:
        known = random_weights(dict(weights.recipe))
        stage = {k: v for k, v in (weights.first_stage or {}).items() if k in (known.first_stage or {})}
        model = {k: v for k, v in (weights.model or {}).items() if k in (known.model or {})}
        return super().write(attrs.evolve(weights, first_stage=stage, model=model), name)


class LosesOne(LdmCodec):
    """Leaves a tensor out of what it reads, and says nothing of it."""

    def read(self, source: Source) -> ModelWeights:
        back = super().read(source)
        return attrs.evolve(back, model=dict(list((back.model or {}).items())[1:]))


class WritesAtOnce(LdmCodec):
    def write(self, weights: ModelWeights, name: str) -> Written:
        written = super().write(weights, name)
        for relative, content in written.files.items():
            Path(relative.replace("/", "-")).write_bytes(content())
        return written


class Dates(LdmCodec):
    """Puts into its files a number that is another one each time."""

    numbers = itertools.count()

    def write(self, weights: ModelWeights, name: str) -> Written:
        written = super().write(weights, name)
        return attrs.evolve(written, files={**written.files, "date.txt": lambda: str(next(self.numbers)).encode()})


class Halves(LdmCodec):
    """Halves the weights that it is handed before it writes them."""

    def write(self, weights: ModelWeights, name: str) -> Written:
        for tensor in (weights.model or {}).values():
            tensor.mul_(0.5)
        return super().write(weights, name)


class Forgets(LdmCodec):
    """Says at its second look that it knows nothing."""

    looks = 0

    def recognise(self, source: Source) -> Recognised | None:
        self.looks += 1
        return super().recognise(source) if self.looks == 1 else None


def catalog_with(codec: type) -> Catalog:
    """All that is installed, and the codec under the name "faulty"."""

    class Plugin:
        @hookimpl
        def ldm_components(self) -> list[Component]:
            factory = f"{__name__}:{codec.__name__}"
            return [Component(kind="codec", name="faulty", config=LdmCodecConfig, factory=factory, summary="faulty")]

    made = Catalog.discover()
    made.register(Plugin(), "faulty", "faulty")
    return made


@mistakes(
    Mistake(Greedy, "test_is_silent_about_other_formats", "as its own"),
    Mistake(Lossy, "test_reads_what_it_writes", "comes back with other values"),
    Mistake(LosesOne, "test_reads_what_it_writes", "lacks ["),
    Mistake(LosesAdapters, "test_says_what_a_source_holds", "holds 'first_stage', expected one of"),
    Mistake(Careless, "test_leaves_everything_as_it_was", "draws from the global generator of torch"),
    Mistake(Halves, "test_leaves_everything_as_it_was", "writing changed the weights that it was handed"),
    Mistake(Slow, "test_recognising_reads_no_large_tensor", "recognise read a tensor of"),
    Mistake(Forgets, "test_recognising_repeats_itself", "recognised otherwise at the second look"),
    Mistake(Trusting, "test_broken_files_are_errors", "KeyError where a CheckpointError is due"),
    Mistake(Unpickles, "test_runs_nothing_of_a_file", "the file's own code ran"),
    Mistake(Drops, "test_drops_no_tensor_silently", "is lost without a word"),
    Mistake(WritesAtOnce, "test_writes_no_file_by_itself", "was written"),
    Mistake(Dates, "test_writes_the_same_bytes_again", "date.txt has other bytes at the second time"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    plain: dict[str, Any] = {**TINY, "denoiser": {**TINY["denoiser"], "channels": 64}}
    if mistake.make is Lossy:  # the identity's numbers are round
        plain["first_stage"] = {
            "use": "kl_ae",
            "channels": 8,
            "channel_mult": [1, 2],
            "res_blocks": 1,
            "norm_groups": 4,
        }
    weights = random_weights(plain)
    assert_found(
        CodecSuite,
        mistake,
        catalog=catalog_with(mistake.make),  # type: ignore[arg-type]
        component="faulty",
        name="run",
        broken_files=2,
        cases=lambda self: {"model": weights},
    )
