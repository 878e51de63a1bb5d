"""A whole measurement of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import attrs
import torch

from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo, DenoiserAnswers, Precision, configs
from ldm_core.errors import ConfigError
from ldm_core.launch.cores import Others
from ldm_core.launch.memory import keep_freed
from ldm_core.recipe.recipe import Recipe, versions
from ldm_plugin_study.bench.gauge import flops, kinds, memory
from ldm_plugin_study.bench.gauge.cases import Case, cases
from ldm_plugin_study.bench.gauge.peak import peaks, products
from ldm_plugin_study.bench.gauge.rounds import alternate
from ldm_plugin_study.bench.gauge.subject import Subject
from ldm_plugin_study.bench.result.choice import COMPONENTS, Choice
from ldm_plugin_study.bench.result.document import Document, Row, Settings
from ldm_plugin_study.bench.result.machine import machine, software

_BUSY = 0.1  # share of the cores that others may use before it is said


@attrs.frozen(eq=False, kw_only=True)
class Measured:
    """The thing to be measured: a checked recipe with its data's description, the folder of a trained run or "",
    the device, the images of a batch, and the `precision` of a preset, None = any."""

    recipe: Recipe
    info: DataInfo
    catalog: Catalog
    device: torch.device
    batch: int
    weights: str = ""
    precision: Precision | None = None

    def subject(self) -> Subject:
        """Its parts, not yet made."""
        return Subject(self.recipe, self.info, self.catalog, self.device, batch=self.batch, weights=self.weights)


def keeps_features(what: Measured) -> bool:
    """True if the denoiser says which of its blocks a cache may keep from step to step."""
    return configs.of(DenoiserAnswers, what.subject().model().denoiser).reusable_spans is not None


def threads(device: torch.device, number: int | None, *, cpu_time: bool) -> AbstractContextManager[None]:
    """A context in which torch has `number` threads (None: its own choice), or one for `cpu_time`. Raises ConfigError
    at once for `cpu_time` on a GPU or with more threads."""
    if cpu_time and (device.type != "cpu" or number not in (None, 1)):
        raise ConfigError("cpu_time: it is the time of one thread on a CPU; give `device=cpu`, and no other threads")
    return _threads(number or (1 if cpu_time else None))


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(what: Measured, choice: Choice, say: Callable[[str], None] = lambda line: None) -> Document:
    """Measure; `say` is told of the progress."""
    device, notes, others = what.device, list[str](), Others(low=True)
    taken_memory, memory_by = _memory_apart(what, choice, say)
    if device.type == "cpu" and "train" in choice.components:
        keep_freed()  # as a training does
    say("making the parts")
    order = list(COMPONENTS)
    made = sorted(cases(what.subject(), choice, notes), key=lambda case: order.index(case.component))
    counted = {case: _count(case) for case in made}
    if choice.memory and device.type == "cuda":
        taken_memory, memory_by = (
            memory.on_gpu(made, device),
            "torch's allocator: most bytes beyond those before a call",
        )
    every = [*products(choice.precisions if any(counted.values()) else (), choice.sizes, device), *made]
    taken = alternate(every, choice, device, lambda number: say(f"round {number + 1} of {choice.rounds}"))
    spent = {case: dict(kinds.shares(case.call, device, choice.rounds)) if case.computes else {} for case in made}
    used = others.cores()
    here = machine(device)
    if used is not None and used > _BUSY * here.cores:
        notes.append(
            f"the machine was busy: other programs used {used:.2g} of {here.cores} cores; ratios between rows hold "
            "better than the numbers do"
        )
    if choice.clock == "processor" and any(case.component == "storage" for case in made):
        notes.append("storage: processor time leaves out waiting for the disk")
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32:
        notes.append("convolutions of fp32 use TF32 and the products of the peak do not: shares of fp32 may exceed 1")
    return attrs.evolve(
        described(what, choice),
        peaks=peaks(taken),
        rows=tuple(
            attrs.evolve(_row(case, taken[case], counted[case], taken_memory), kinds=spent[case]) for case in made
        ),
        notes=tuple(notes),
        others=None if used is None else round(used, 2),
        memory_by=memory_by,
    )


def described(what: Measured, choice: Choice) -> Document:
    """The document of a measurement without its results."""
    return Document(
        machine=machine(what.device),
        software=software(versions(what.recipe, what.catalog)),
        recipe=what.recipe.public(),
        settings=Settings(
            batch=what.batch,
            rounds=choice.rounds,
            least=choice.least,
            sampler_steps=choice.sampler_steps,
            precisions=choice.precisions,
            clock=choice.clock,
        ),
        peaks=(),
        rows=(),
    )


def _memory_apart(what: Measured, choice: Choice, say: Callable[[str], None]) -> tuple[memory.Peaks, str]:
    """The memory on a CPU, before this process makes the parts for itself."""
    if not choice.memory or what.device.type != "cpu":
        return {}, ""
    if not memory.can_fork():
        return {}, ""
    say("measuring memory")
    how = "processes of their own: rise of the largest resident set in a second call"
    return memory.apart(what.subject(), choice, what.weights), how


def _count(case: Case) -> int:
    """The operations of one part, of the second call: the first one is held to the contracts."""
    if not case.computes:
        return 0
    case.call()
    return flops.count(case.call) // case.parts


def _row(case: Case, seconds: Sequence[float], operations: int, taken: memory.Peaks) -> Row:
    return Row(
        component=case.component,
        precision=case.precision,
        amount=case.amount,
        seconds=tuple(seconds),
        flops=operations,
        parameters=case.parameters,
        memory=taken.get((case.component, case.precision)),
    )
