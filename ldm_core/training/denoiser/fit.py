"""Conditioners that learn from annotations before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ldm_core import storage
from ldm_core.data.records.sources import Captions
from ldm_core.data.unreadable import SkipBad
from ldm_core.errors import DataError
from ldm_core.model.build import make_conditioner
from ldm_core.model.diffusion import Model
from ldm_core.model.parts import factory_of
from ldm_core.recipe.check import site_of
from ldm_core.sampling.run import omissions, truncations
from ldm_core.training.feed.examples import MAX_BAD
from ldm_core.training.finetune import Start

if TYPE_CHECKING:
    from ldm_core.training.stages import Stages


def fit_conditioners(work: Stages, model: Model, start: Start) -> None:
    """Let conditioners learn from the annotations (a tokenizer), where nothing was learned yet, and say which are
    frozen without having learned anything."""
    for part in work.recipe.conditioners:
        conditioner: Any = model.conditioners[part.name]
        prefix = f"conditioners.{part.name}."
        trained = start.has(prefix)
        fit = getattr(conditioner, "fit", None)
        if fit is not None and not trained:
            fitted = work.fitted.pop(part.name, None)
            if fitted is not None:
                conditioner.load_state_dict({**conditioner.state_dict(), **fitted})
            else:
                _fit(work, part, fit)
        pretrained = trained or getattr(part.config, "pretrained", False)
        if not part.train and not pretrained and any(True for _ in conditioner.parameters()):
            work.run.say(
                f"conditioner '{part.name}' has train: false and fresh weights: it stays at random; set "
                f"conditioners.{part.name}.train=true, or give trained weights with trainer.init_from",
                "warning",
            )


def fit_early(work: Stages, stages: Sequence[str]) -> None:
    """Let conditioners learn before anything is trained, on the CPU, and look at what they would cut off where that is
    an error: both are mistakes that show in seconds, and would come after hours otherwise."""
    if "denoiser" not in stages or work.recipe.trainer.init_from or storage.exists(work.model_url):
        return  # of trained weights, the vocabulary is theirs
    strict = work.strict and "samples" in stages
    wanted = ("fit", "truncated", "omitted") if strict else ("fit",)
    site = site_of(work.recipe)
    made: dict[str, Any] = {}
    for part in work.recipe.conditioners:
        if any(hasattr(factory_of(part, work.catalog), name) for name in wanted):
            made[part.name] = conditioner = make_conditioner(work.recipe, part, site, work.catalog)
            if hasattr(conditioner, "fit"):
                before = {k: v.clone() for k, v in conditioner.state_dict().items()}
                _fit(work, part, conditioner.fit)
                after = conditioner.state_dict().items()  # fresh weights come again from the seed: only what changed
                work.fitted[part.name] = {k: v for k, v in after if not torch.equal(v, before[k])}
    if strict:
        rows = list(work.examples or ()) or [{"caption": p} for p in work.recipe.sample.prompts]
        lines = truncations(made, [str(r["caption"]) for r in rows if "caption" in r])
        if work.examples:
            lines += omissions(made, rows)
        if lines:
            raise DataError(lines[0] + "; shorten it, or leave --strict out")


def _fit(work: Stages, part: Any, fit: Callable[[Any], None]) -> None:
    view = SkipBad(work.paired().select(part.config.reads), getattr(work.dataset, "max_bad", MAX_BAD))
    fit(_each_caption(view[i] for i in range(len(view))))


def _each_caption(examples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """`examples`, those with several captions once with each."""
    for example in examples:
        caption = example.get("caption")
        if isinstance(caption, Captions):
            yield from ({**example, "caption": text} for text in caption.texts)
        else:
            yield example
