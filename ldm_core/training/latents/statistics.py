"""The mean and std of a first stage's latents over the data, kept by it as its normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

import torch
from torch import Tensor

from ldm_core.contracts import FirstStage
from ldm_core.contracts.streams import Streams
from ldm_core.training.engine.world import World

_ALONE = World(0, 1, torch.device("cpu"))
_Part = tuple[int, Tensor, Tensor]


@torch.no_grad()
def fit_normalization(
    stage: FirstStage, batches: Iterable[tuple[Tensor, Sequence[int]]], world: World = _ALONE, *, one_std: bool = False
) -> tuple[Tensor, Tensor]:
    """Measure the mean and std (C,) of raw latents over (images, stream seeds) and hand them to the stage.

    `batches` are those of this process: of all, every ``world.size``-th from ``world.rank`` on. The batches' results
    are put together in the order of the batches and in float64, so the result has the same bits on any number of
    processes encoding alike. A std of 0 (a constant channel) becomes 1. With `one_std` all channels have one, the root
    of their mean variance. Every process must call it.
    """
    channels = stage.latent.channels
    device = next(iter(stage.parameters()), torch.zeros(())).device  # type: ignore[attr-defined]
    stage.set_normalization(torch.zeros(channels, device=device), torch.ones(channels, device=device))
    own: list[_Part] = []
    for images, seeds in batches:
        z = stage.latents(stage.encode_moments(images), streams=Streams(seeds, images.device))
        z = z.double().cpu().transpose(0, 1).flatten(1)  # (C, N)
        mean = z.mean(1)
        own.append((z.shape[1], mean, (z - mean[:, None]).square().sum(1)))
    found = [own] if world.size == 1 else world.gather(own)
    # batch j of process r is number j * size + r of all
    count, mean, squares = 0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for part in chain.from_iterable(zip_longest(*found)):
        if part is not None:
            count, mean, squares = _together((count, mean, squares), part)
    variance = squares / count
    std = (variance.mean().expand_as(variance) if one_std else variance).sqrt()
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    stage.set_normalization(mean.float().to(device), std.float().to(device))
    return mean.float(), std.float()


def _together(a: _Part, b: _Part) -> _Part:
    """Count, mean and sum of squared deviations of two samples as one (Chan, Golub and LeVeque 1983)."""
    count = a[0] + b[0]
    step = b[1] - a[1]
    return count, a[1] + step * (b[0] / count), a[2] + b[2] + step.square() * (a[0] * b[0] / count)
