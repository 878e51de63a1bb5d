"""Conditioners that learn from annotations before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ldm_core import storage
from ldm_core.data.records.sources import Captions
from ldm_core.data.unreadable import SkipBad
from ldm_core.errors import DataError
from ldm_core.model.build import make_conditioner
from ldm_core.model.diffusion import Model
from ldm_core.model.parts import factory_of
from ldm_core.recipe.check import site_of
from ldm_core.sampling.inputs import omissions, truncations
from ldm_core.training.context import RunContext
from ldm_core.training.feed.examples import MAX_BAD
from ldm_core.training.finetune import Start


def fit_conditioners(context: RunContext, model: Model, start: Start, fitted: Mapping[str, Mapping[str, Any]]) -> None:
    """Let conditioners learn from the annotations (a tokenizer), but for those that `start` or :func:`fit_early` gave
    what they need, and warn of those that stay at random."""
    for part in context.recipe.conditioners:
        conditioner: Any = model.conditioners[part.name]
        prefix = f"conditioners.{part.name}."
        trained = start.has(prefix)
        fit = getattr(conditioner, "fit", None)
        if fit is not None and not trained:
            if part.name in fitted:
                conditioner.load_state_dict({**conditioner.state_dict(), **fitted[part.name]})
            else:
                _fit(context, part, fit)
        pretrained = trained or getattr(part.config, "pretrained", False)
        if not part.train and not pretrained and any(True for _ in conditioner.parameters()):
            context.run.say(
                f"conditioner '{part.name}' has train: false and fresh weights: it stays at random; set "
                f"conditioners.{part.name}.train=true, or give trained weights with trainer.init_from",
                "warning",
            )


def fit_early(context: RunContext, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Let conditioners learn before anything is trained, on the CPU, and look at what they would cut off where that is
    an error: both are mistakes that show in seconds, and would come after hours otherwise. Gives the state that each
    conditioner learned, by name."""
    if "denoiser" not in stages or context.recipe.trainer.init_from or storage.exists(context.model_url):
        return {}  # of trained weights, the vocabulary is theirs
    strict = context.strict and "samples" in stages
    wanted = ("fit", "truncated", "omitted") if strict else ("fit",)
    site = site_of(context.recipe)
    made: dict[str, Any] = {}
    fitted: dict[str, dict[str, Any]] = {}
    for part in context.recipe.conditioners:
        if any(hasattr(factory_of(part, context.catalog), name) for name in wanted):
            made[part.name] = conditioner = make_conditioner(context.recipe, part, site, context.catalog)
            if hasattr(conditioner, "fit"):
                before = {k: v.clone() for k, v in conditioner.state_dict().items()}
                _fit(context, part, conditioner.fit)
                after = conditioner.state_dict().items()  # fresh weights come again from the seed: only what changed
                fitted[part.name] = {k: v for k, v in after if not torch.equal(v, before[k])}
    if strict:
        rows = list(context.examples or ()) or [{"caption": p} for p in context.recipe.sample.prompts]
        lines = truncations(made, [str(r["caption"]) for r in rows if "caption" in r])
        if context.examples:
            lines += omissions(made, rows)
        if lines:
            raise DataError(lines[0] + "; shorten it, or leave `strict` out")
    return fitted


def _fit(context: RunContext, part: Any, fit: Callable[[Any], None]) -> None:
    view = SkipBad(context.paired().select(part.config.reads), getattr(context.dataset, "max_bad", MAX_BAD))
    fit(_each_caption(view[i] for i in range(len(view))))


def _each_caption(examples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """`examples`, those with several captions once with each."""
    for example in examples:
        caption = example.get("caption")
        if isinstance(caption, Captions):
            yield from ({**example, "caption": text} for text in caption.texts)
        else:
            yield example
