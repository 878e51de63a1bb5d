"""The recipe's metrics on a few samples of a model in training; the same figures on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from ldm_core.contracts import SIZE_KEYS, Metric, MetricAnswers, Pictures, Rows
from ldm_core.contracts.configs import MetricConfig, of
from ldm_core.contracts.streams import mix_seed
from ldm_core.data.collate import collate, to_device
from ldm_core.errors import ConfigError, DataError, Interrupted, LDMError, quoted, suggest
from ldm_core.model.conformance.breaches import Named, inside, named
from ldm_core.model.degraded import for_conditioners
from ldm_core.model.fill import seeded
from ldm_core.model.parts import make
from ldm_core.recipe.check import site_of
from ldm_core.recipe.recipe import Part
from ldm_core.training.context import RunContext
from ldm_core.training.denoiser.previews import drawing
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.engine.collective import from_main, in_all
from ldm_core.training.feed.examples import Examples
from ldm_core.training.folder.metrics import EVALUATION
from ldm_core.training.samples import sheets

STAGE = "denoiser" + EVALUATION
"""The stage of its numbers, in metrics.jsonl and for observers."""
_BLOCK = 16  # pictures measured at once; the same on any number of processes, so the bits are, too
Measured = Mapping[str, Rows]
"""Rows by the source of the metrics that they are of."""
Keep = Callable[[Mapping[str, Tensor], int, Mapping[str, float]], None]
"""Writes the weights of the best step: weights, step, the value by its name."""


class _Spread:
    """`count` examples of the held-out data, else of the training's, at even distances: data may be sorted."""

    def __init__(self, context: RunContext, keys: Sequence[str], count: int) -> None:
        data, self.why_not = context.held_out(keys)
        settings = attrs.evolve(context.recipe.data, keep=0, balance="")
        self.examples = Examples(data, context.recipe.image_size, settings, keys, context.degraded)
        self.count = min(count, len(self.examples))

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        return self.examples[place * len(self.examples) // self.count]


@attrs.frozen
class _Asked:
    """A metric of the recipe."""

    metric: Metric
    config: object
    named: Named

    def values(self, own: Measured, against: Measured) -> Mapping[str, float]:
        """The numbers of two sets, by sums where the metric has them."""
        sums, source = of(MetricAnswers, self.metric).sums or (lambda rows: rows), self.metric.source
        with inside(self.named, "values"), torch.no_grad():
            alone = of(MetricConfig, self.config).against == "nothing"
            return self.metric.values(sums(own[source]), None if alone else sums(against[source]))


class Evaluation:
    """The metrics and the rows of the reference, and what the evaluations found so far.

    All processes make one. The reference is measured once, and the first of its pictures stand for samples: too few for
    a metric, and a value to keep that no metric gives, are a :class:`ConfigError` before any training.
    """

    def __init__(self, context: RunContext) -> None:
        recipe, self._settings = context.recipe, context.recipe.trainer
        count = self._settings.evaluate_images
        self._context, self._evaluated, self._best, self._source = context, 0, (0, 0.0), ""
        # those of the samples are the data's, not prompts by hand: they are compared with pictures of the data
        self._recipe = attrs.evolve(recipe, sample=attrs.evolve(recipe.sample, images=count, prompts=()))
        with seeded(mix_seed(recipe.seed, "metrics")):
            self._asked = [self._make(part) for part in recipe.metrics]
        self._keys = list(dict.fromkeys(key for each in self._asked for key in of(MetricConfig, each.config).reads))
        reference = _Spread(context, ["image", *self._keys], max(count, self._settings.validate_images))
        self._kinds = reference.examples.keys
        self._require_enough(reference.count)
        self._against = self._measured(reference.__getitem__, reference.count)
        self._require_values(reference)
        reads = [key for key in recipe.reads if key not in SIZE_KEYS]
        inputs = _Spread(context, reads, count) if reads else None
        self._rows = [sheets.indexed(for_conditioners(inputs[i])) for i in range(inputs.count)] if inputs else []

    def _make(self, part: Part) -> _Asked:
        metric = make(part, site_of(self._recipe), self._context.catalog)
        if isinstance(metric, nn.Module):
            metric.to(self._context.run.world.device).eval().requires_grad_(False)
        return _Asked(metric, part.config, named(part, self._context.catalog))

    def _require_enough(self, pictures: int) -> None:
        count, problems = self._settings.evaluate_images, []
        for each in self._asked:
            least = of(MetricAnswers, each.metric).least
            if count < least:
                problems.append(
                    f"{each.named} needs {least} pictures on either side, and trainer.evaluate_images is {count}; set "
                    f"trainer.evaluate_images={least}, or let it take fewer by a setting of its own"
                )
            elif pictures < least and of(MetricConfig, each.config).against == "set":
                problems.append(
                    f"{each.named} needs {least} pictures on either side, and the data give {pictures} to compare "
                    "with; give more, or leave the metric out"
                )
        if problems:
            raise ConfigError(problems)

    def _require_values(self, reference: _Spread) -> None:
        """Measure pictures of the reference as if they were samples, and say to the user how it is done."""
        settings, places = self._settings, np.arange(self._settings.evaluate_images) % reference.count
        trial = {source: {k: v[places] for k, v in rows.items()} for source, rows in self._against.items()}
        found = self._values(trial)
        if settings.keep_best and settings.keep_best not in found:
            raise ConfigError(
                f"trainer.keep_best: the recipe's metrics give {', '.join(found)}, and not "
                f"{quoted(settings.keep_best)}{suggest(settings.keep_best, found)}"
            )
        self._context.run.say(
            f"denoiser: {', '.join(found)} of {settings.evaluate_images} samples every {settings.evaluate_every} "
            f"steps, beside {reference.count} {'training' if reference.why_not else 'held-out'} pictures"
            + (f" ({reference.why_not})" if reference.why_not else "")
        )

    # ---------------------------------------------------------------------------------------------- in training

    def during(self, task: DenoiserTask, keep: Keep) -> Callable[[int], bool]:
        """The evaluation of `task` after a step, as :func:`ldm_core.training.loop.train` calls it; with ``keep_best``,
        the main process calls `keep` for each best step."""
        task.evaluation = self
        return lambda step: self._is_due(step) and self._evaluate(step, task, keep)

    def _is_due(self, step: int) -> bool:
        settings = self._settings
        return step > self._evaluated and (step % settings.evaluate_every == 0 or step == settings.steps)

    def _evaluate(self, step: int, task: DenoiserTask, keep: Keep) -> bool:
        """Measure, tell and keep; True if it was cut off."""
        run = self._context.run
        try:
            weights = task.weights()
            found = self._values(self._sampled(step, weights))
            better = self._is_better(found)
            if run.world.main:
                run.metrics.write(stage=STAGE, step=step, **found)
                run.hook.ldm_step(stage=STAGE, step=step, logs=found)
            if better:
                best = {self._settings.keep_best: found[self._settings.keep_best]}
                from_main(run.world, lambda: keep(weights, step, best))
                self._best = step, found[self._settings.keep_best]
            said = ", ".join(f"{name} {value:.5g}" for name, value in found.items())
            run.say(f"denoiser: step {step}, {said}{' (the best so far)' if better else ''}")
        except Interrupted:
            run.say(f"denoiser: the evaluation of step {step} was cut off, as the run was asked to stop")
            return True
        except LDMError as error:
            run.say(f"denoiser: the evaluation of step {step} failed: {error}", "warning")
        except torch.OutOfMemoryError as error:
            run.say(f"denoiser: no evaluation of step {step}, memory does not suffice for {error}", "warning")
        self._evaluated = step
        return False

    def _is_better(self, found: Mapping[str, float]) -> bool:
        name, (step, best) = self._settings.keep_best, self._best
        if not name:
            return False
        higher = any(name in of(MetricConfig, each.config).higher_is_better for each in self._asked)
        return not step or (found[name] > best if higher else found[name] < best)

    def _sampled(self, step: int, weights: Mapping[str, Tensor]) -> Measured:
        """The rows of samples with these weights; image i has the same input and seed at every step."""
        stop, rows = self._context.run.stop, self._rows
        cut = lambda: bool(stop.asked) and step < self._settings.steps  # noqa: E731 - a run's last step is no stop
        with drawing(self._context, self._recipe, weights, f"the evaluation of step {step}") as pipeline:
            made = sheets.sample(pipeline, rows, self._context.run.world, told=lambda progress: not cut())
        taken = lambda i: {**(rows[i % len(rows)] if rows else {}), "image": made[i].image}  # noqa: E731
        return self._measured(taken, len(made), cut)

    def _measured(
        self, take: Callable[[int], Mapping[str, Any]], count: int, cut: Callable[[], bool] = lambda: False
    ) -> Measured:
        """The rows of the examples `take` gives, each measured once for all metrics of a source, in shares by process
        gathered by place."""
        world, sources = self._context.run.world, {each.metric.source: each for each in self._asked}

        def share() -> dict[int, Measured]:
            own: dict[int, Measured] = {}
            for block in range(world.rank, -(-count // _BLOCK), world.size):
                if cut():
                    raise Interrupted("the measurement was cut off")
                places = range(block * _BLOCK, min((block + 1) * _BLOCK, count))
                pictures = self._pictures([take(i) for i in places], places)
                own[block] = {source: self._rows_of(each, pictures) for source, each in sources.items()}
            return own

        devices = [world.device] if world.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            found = [rows for _, rows in sorted(pair for part in in_all(world, share) for pair in part.items())]
        return {s: {name: np.concatenate([rows[s][name] for rows in found]) for name in found[0][s]} for s in sources}

    @staticmethod
    def _rows_of(each: _Asked, pictures: Pictures) -> Rows:
        with inside(each.named, "measure"):
            return each.metric.measure(pictures)

    def _pictures(self, taken: Sequence[Mapping[str, Any]], places: Sequence[int]) -> Pictures:
        device = self._context.run.world.device
        images = torch.from_numpy(np.stack([each["image"] for each in taken])).to(device)
        keys = [{key: each[key] for key in self._keys} for each in taken]
        return Pictures(images, places, to_device(collate(keys, self._kinds), device))

    def _values(self, own: Measured) -> dict[str, float]:
        """The numbers of all metrics, of the main process; :class:`ConfigError` if two give one of the same name."""

        def make() -> list[dict[str, float]]:
            made = []
            for each in self._asked:
                made.append({name: float(value) for name, value in each.values(own, self._against).items()})
                if not all(map(math.isfinite, made[-1].values())):
                    raise DataError(f"{each.named} gives {made[-1]}; a number that is not finite is none")
            return made

        found: dict[str, float] = {}
        for each, new in zip(self._asked, from_main(self._context.run.world, make), strict=True):
            if double := sorted(found.keys() & new.keys()):
                raise ConfigError(f"metrics: {each.named} gives '{double[0]}', as one before it does; leave one out")
            found |= new
            if self._settings.keep_best in new:
                self._source = each.metric.source
        return found

    # -------------------------------------------------------------------------------------------- in checkpoints

    def state(self) -> Tensor:
        """The last step evaluated, the best one and its value, and the letters that say which value, as float64."""
        return torch.tensor([self._evaluated, *self._best, *self._value(self._source)], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on from :meth:`state`; the best by another value is none."""
        evaluated, step, value, *letters = state.tolist()
        self._evaluated = int(evaluated)
        every = {each.metric.source for each in self._asked}  # as older checkpoints have them
        if letters in (self._value(self._source), self._value(*every)):
            self._best = int(step), value

    def _value(self, *sources: str) -> list[int]:
        """The letters of the kept value's name, the number of samples and the source of the metric that gives it:
        values of others do not compare."""
        return list(f"{self._settings.keep_best} {self._settings.evaluate_images} {sorted(sources)}".encode())
