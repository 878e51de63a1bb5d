"""What a step of the first stage says of itself: the logs of its micro-batches and processes, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.training.engine.world import World


def combine(micros: Sequence[Mapping[str, Tensor]], stage: Any, world: World) -> dict[str, Tensor]:
    """The mean of equal-named logs over micro-batches and processes, as scalars (); one reduction in all.

    Logs with axes (counts of codes, KL by channel) are averaged as they are and handed to the stage's
    ``diagnostics(logs)``, which makes scalars of them: the number of codes that a whole batch uses does not follow
    from the numbers of its parts. A stage without it has their means. Every process must call it.
    """
    means = {k: torch.stack([m[k].detach().float() for m in micros]).mean(0) for k in sorted(micros[0])}
    if world.size > 1:
        whole = world.average(torch.cat([v.flatten() for v in means.values()]))
        parts = whole.split([v.numel() for v in means.values()])
        means = {k: part.view(v.shape) for (k, v), part in zip(means.items(), parts, strict=True)}
    out = {k: v for k, v in means.items() if v.dim() == 0}
    if wide := {k: v for k, v in means.items() if v.dim()}:
        find = getattr(stage, "diagnostics", None)
        out.update({k: v.mean() for k, v in wide.items()} if find is None else find(wide))
    return out
