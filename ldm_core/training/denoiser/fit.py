"""Conditioners learning from annotations before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ldm_core import storage
from ldm_core.contracts import ConditionerAnswers
from ldm_core.contracts.configs import ConditionerConfig, of
from ldm_core.data.records.sources import Captions
from ldm_core.data.sizes import select
from ldm_core.errors import DataError
from ldm_core.model.build import make_conditioner
from ldm_core.model.diffusion import Model
from ldm_core.model.parts import factory_of
from ldm_core.recipe.check import site_of
from ldm_core.sampling.inputs import omissions, truncations
from ldm_core.training.context import RunContext
from ldm_core.training.feed.examples import skip_bad
from ldm_core.training.finetune import Start


def fit_conditioners(context: RunContext, model: Model, start: Start, fitted: Mapping[str, Mapping[str, Any]]) -> None:
    """Let conditioners learn from the annotations (a tokenizer), except those supplied by `start` or :func:`fit_early`,
    and warn of those left at random."""
    for part in context.recipe.conditioners:
        conditioner: Any = model.conditioners[part.name]
        prefix = f"conditioners.{part.name}."
        trained = start.has(prefix)
        fit = of(ConditionerAnswers, conditioner).fit
        if fit is not None and not trained:
            if part.name in fitted:
                conditioner.load_state_dict({**conditioner.state_dict(), **fitted[part.name]})
            else:
                _fit(context, part, fit)
        pretrained = trained or of(ConditionerConfig, part.config).pretrained
        if not part.train and not pretrained and any(True for _ in conditioner.parameters()):
            context.run.say(
                f"conditioner '{part.name}' has train: false and fresh weights: it stays at random; set "
                f"conditioners.{part.name}.train=true, or give trained weights with trainer.init_from",
                "warning",
            )


def fit_early(context: RunContext, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Let conditioners learn before any training, on the CPU, and check for cut-off inputs if these are an error.

    Both mistakes show here in seconds, otherwise after hours. Gives the learned state of each conditioner, by name.
    """
    if "denoiser" not in stages or context.recipe.trainer.init_from or storage.exists(context.model_url):
        return {}  # of trained weights, the vocabulary is theirs
    strict = context.inputs.strict and "samples" in stages
    site = site_of(context.recipe)
    made: dict[str, Any] = {}
    fitted: dict[str, dict[str, Any]] = {}
    for part in context.recipe.conditioners:
        offers = of(ConditionerAnswers, factory_of(part, context.catalog))
        if offers.fit or (strict and (offers.truncated or offers.omitted)):
            made[part.name] = conditioner = make_conditioner(context.recipe, part, site, context.catalog)
            if (fit := of(ConditionerAnswers, conditioner).fit) is not None:
                before = {k: v.clone() for k, v in conditioner.state_dict().items()}
                _fit(context, part, fit)
                after = conditioner.state_dict().items()  # fresh weights come again from the seed: only what changed
                fitted[part.name] = {k: v for k, v in after if not torch.equal(v, before[k])}
    if strict:
        rows = list(context.inputs.rows or ()) or [{"caption": p} for p in context.recipe.sample.prompts]
        lines = truncations(made, [str(r["caption"]) for r in rows if "caption" in r])
        if context.inputs.rows:
            lines += omissions(made, rows)
        if lines:
            raise DataError(lines[0] + "; shorten it, or leave `strict` out")
    return fitted


def _fit(context: RunContext, part: Any, fit: Callable[[Any], None]) -> None:
    data = context.paired()
    view = skip_bad(select(data, [key for key in part.config.reads if key in context.recipe.asked(data.keys)]))
    fit(_each_caption(view[i] for i in range(len(view))))


def _each_caption(examples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """`examples`, those with several captions once with each."""
    for example in examples:
        caption = example.get("caption")
        if isinstance(caption, Captions):
            yield from ({**example, "caption": text} for text in caption.texts)
        else:
            yield example
