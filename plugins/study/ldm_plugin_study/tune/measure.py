"""The measurements of candidates, each kept in a folder of its own as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.contracts import MetricConfig
from ldm_core.errors import LDMError
from ldm_core.sampling.pipeline import Pipeline
from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.gauge.rounds import Clock
from ldm_plugin_study.bench.measure import Measured
from ldm_plugin_study.study import quality, speed
from ldm_plugin_study.study.quality import Figure, Question
from ldm_plugin_study.tune.candidates import Candidate

Tell = Callable[[str], None]
TIMES = "times.json"
"""The file of a candidate's timings."""


def few(question: Question, catalog: Catalog) -> Question:
    """The question for fewer pictures than some metrics need: biased figures, alike for all candidates."""
    lines = []
    for each in question.metrics.split(","):
        name, _, component = each.strip().partition(":")
        config: type = catalog.get("metric", component or name)[0].component.config or MetricConfig
        if "allow_few" in attrs.fields_dict(config):
            lines.append(f"{name}.allow_few=true")
    return attrs.evolve(question, settings=(*question.settings, *lines))


def measured(question: Question, tried: Sequence[Candidate], folder: str, tell: Tell) -> dict[Candidate, list[Figure]]:
    """The figures of every candidate by a `question` of so many images, of those done before from their records."""
    places = {each: storage.join(folder, each.name, str(question.images)) for each in tried}
    asked = {
        each: attrs.evolve(question, more=(*question.more, "--precision", each.precision, "--quiet")) for each in tried
    }
    left = [each for each in tried if not quality.finished(asked[each], each, places[each])]
    tell(f"{question.images} pictures of {len(tried)} candidates, {len(tried) - len(left)} of them done before")
    for number, each in enumerate(left):
        tell(f"{each.label}, {number + 1} of {len(left)}")
        quality.evaluate(asked[each], each, places[each])
    return {each: quality.figures(asked[each], places[each]) for each in tried}


@attrs.define(eq=False)
class Stopwatch:
    """Times candidates in pairs with a quick one: a busy moment falls on both. `known`: everything behind a timing;
    others of a file are not taken."""

    what: Measured
    clock: Clock
    reference: Candidate
    folder: str
    known: Mapping[str, Any]
    _pipelines: dict[str, Pipeline] = attrs.field(factory=dict)
    _cases: dict[Candidate, Case] = attrs.field(factory=dict)

    def pairs(self, tried: Sequence[Candidate], rounds: int, tell: Tell) -> dict[Candidate, list[tuple[float, float]]]:
        """Seconds a picture of each candidate and of the reference beside it, `rounds` times, kept ones first."""
        found = {each: self._kept(each) for each in tried}
        left = [each for each in tried if len(found[each]) < rounds]
        tell(f"speed of {len(tried)} candidates, {len(tried) - len(left)} of them done before")
        for number in range(rounds):
            for each in left if number % 2 == 0 else reversed(left):
                if len(found[each]) <= number:
                    self._add(each, found[each], number)
        return {each: pairs[:rounds] for each, pairs in found.items()}

    def _add(self, each: Candidate, pairs: list[tuple[float, float]], number: int) -> None:
        order = [each, self.reference] if number % 2 == 0 else [self.reference, each]
        taken = {one: self._seconds(one) for one in order}
        pairs.append((taken[each], taken[self.reference]))
        plain = {"known": dict(self.known), "pairs": pairs}
        storage.atomic_write(storage.join(self.folder, each.name, TIMES), json.dumps(plain) + "\n")

    def _seconds(self, each: Candidate) -> float:
        if each not in self._cases:
            self._cases[each] = self._case(each)
            self._cases[each].call()  # warm
        return max(self.clock.seconds(self._cases[each], 1), 1e-9) / self.what.batch

    def _case(self, each: Candidate) -> Case:
        if each.precision not in self._pipelines:
            self._pipelines[each.precision] = Pipeline.load(
                self.what.weights, device=str(self.what.device), catalog=self.what.catalog, precision=each.precision
            )
        pipeline = self._pipelines[each.precision]
        return speed.case_of(pipeline, each, speed.inputs_of(self.what, pipeline), self.what.batch)

    def _kept(self, each: Candidate) -> list[tuple[float, float]]:
        url = storage.join(self.folder, each.name, TIMES)
        try:
            plain = documents.parse_json(storage.read_text(url), url) if storage.exists(url) else {}
            return [(float(a), float(b)) for a, b in plain["pairs"]] if plain.get("known") == self.known else []
        except (LDMError, LookupError, TypeError, ValueError, AttributeError):
            return []


def in_units(
    pairs: Mapping[Candidate, Sequence[tuple[float, float]]],
) -> tuple[dict[Candidate, tuple[float, ...]], float]:
    """The ratios of each candidate to the reference, and the reference's seconds a picture, the middle of all."""
    unit = median(reference for each in pairs.values() for _, reference in each)
    return {each: tuple(a / b for a, b in timed) for each, timed in pairs.items()}, unit
