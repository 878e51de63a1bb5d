"""The errors of a model on held-out images, by noise level; the same figures on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts import Batch
from ldm_core.contracts.streams import mix_seed
from ldm_core.data.collate import collate, to_device
from ldm_core.model.degraded import for_conditioners
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.engine.world import World

BINS = 10
"""Separately measured spans of the schedule: `val_loss_t0` is the tenth with the least noise."""
_BLOCK = 16  # images, or an image's spans, measured at once; the same on any number of processes, so the bits are, too


class HeldOutErrors:
    """The squared error of the network's prediction on held-out images, with the averaged weights if any.

    `examples` by index, fitted to the model's size. Each image is measured once in each of ten equal spans of the
    schedule's own training times, with latents, time and noise from its own streams, so two measurements differ by the
    weights alone. Neither the objective's weighting nor its choice of times enters, so runs with different objectives
    compare; conditions are not dropped. `cut` says after which steps it is to be cut off, and is asked again and again.
    """

    def __init__(
        self,
        task: DenoiserTask,
        examples: Any,
        reads: tuple[str, ...],
        count: int,
        world: World,
        cut: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self._task, self._examples, self._reads, self._world, self._cut = task, examples, reads, world, cut
        self.count = min(count, len(examples))
        self._kept: dict[int, tuple[Tensor, Mapping[str, Any]]] = {}

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """``val_loss`` and its parts ``val_loss_t0`` to ``val_loss_t9``; nothing if it was cut off. Every process must
        call it."""
        world = self._world
        table = torch.zeros(self.count, BINS, dtype=torch.float64)
        blocks = -(-self.count // _BLOCK)
        with self._task.averaged():
            for turn in range(-(-blocks // world.size)):
                if world.any(self._cut(step)):
                    return {}
                block = turn * world.size + world.rank
                own = block < blocks  # the others run along: under ZeRO 3 all processes are needed for a forward pass
                rows = self._rows(block if own else 0)
                x0, batch = self._block(block if own else 0)
                found = self._errors(rows, x0, batch)
                if own:
                    table[rows.start : rows.stop] = found.double().cpu()
        table = world.sum(table)  # each number stands on one process and is 0 on the others
        by_time = table.mean(0)
        return {"val_loss": float(by_time.mean()), **{f"val_loss_t{b}": float(v) for b, v in enumerate(by_time)}}

    def _errors(self, rows: range, x0: Tensor, batch: Batch) -> Tensor:
        """The errors (B, BINS) of a block; of few images, several spans at once."""
        once = max(1, _BLOCK // len(rows))
        found: list[Tensor] = []
        for first in range(0, BINS, once):
            spans = range(first, min(first + once, BINS))
            seeds = [mix_seed("validation", i, b) for b in spans for i in rows]
            times = [(b / BINS, (b + 1) / BINS) for b in spans for _ in rows]
            repeated = {
                k: torch.cat([v] * len(spans)) if isinstance(v, Tensor) else [*v] * len(spans) for k, v in batch.items()
            }
            found += self._task.errors(torch.cat([x0] * len(spans)), repeated, seeds, times).chunk(len(spans))
        return torch.stack(found, 1)

    def _rows(self, block: int) -> range:
        return range(block * _BLOCK, min((block + 1) * _BLOCK, self.count))

    def _block(self, block: int) -> tuple[Tensor, Mapping[str, Any]]:
        """A block's latents and the conditioners' inputs; encoded once."""
        device = self._world.device
        if block not in self._kept:
            rows = self._rows(block)
            found = [self._examples[i * len(self._examples) // self.count] for i in rows]  # data may be sorted
            batch = to_device(collate(found, self._examples.keys), device)
            x0 = self._task.latents(batch, [mix_seed("validation", "latents", i) for i in rows])
            read = {k: v for k, v in for_conditioners(batch).items() if k in self._reads}
            self._kept[block] = x0.cpu(), to_device(read, torch.device("cpu"))
        latents, inputs = self._kept[block]
        return latents.to(device), to_device(inputs, device)
