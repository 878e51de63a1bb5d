"""A span of blocks surrounded, and its features in a run: an entry for each bundle, so each branch has its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import (
    Adapter,
    BlockSpan,
    Cond,
    DenoiserAnswers,
    DiffusionModel,
    SamplingRun,
    evaluation,
)
from ldm_core.contracts.configs import of
from ldm_core.errors import ConfigError
from ldm_core.nn.hooks import Surrounding, surround

_MOST_BUNDLES = 64  # kept at once; a guidance with new ones at each step must not fill the memory


@attrs.define(eq=False)
class Entry:
    """The features kept for one bundle.

    `value`: the span's last output, or its difference from the input. `since`: the step of the last call behind them.
    `like`: size and type of the input. `shapes`: those of the blocks' outputs, by place. Of the call under way:
    `enters`, the base of a difference, and `left_out`.
    """

    cond: Cond  # held, so that its id stays its own
    value: Tensor | None = None
    since: int = -1
    like: tuple[object, ...] = ()
    shapes: dict[int, torch.Size] = attrs.field(factory=dict)
    enters: Tensor | None = None
    left_out: bool = False


E = TypeVar("E", bound=Entry)


class SpanCache(Adapter, Generic[E]):
    """Stands around the blocks of one of the denoiser's `reusable_spans`.

    Calls outside of a run, and those with a gradient, compute all and keep nothing.
    """

    entry: type[E]
    name = ""
    probes = 0
    """The number of blocks at the span's begin that always run."""

    def __init__(self, branch: int) -> None:
        self._branch = branch
        self._span = BlockSpan(())
        self._handles: list[Surrounding] = []

    def attach(self, model: DiffusionModel) -> None:
        """Stand around the blocks; ConfigError if the denoiser names no such span."""
        self.detach()
        self._span = self._found(model.denoiser)
        self._handles = [surround(block, partial(self._call, place)) for place, block in enumerate(self._span.blocks)]

    def detach(self) -> None:
        """Leave the blocks alone."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @abstractmethod
    def oldest(self, run: SamplingRun) -> int:
        """The least `since` of features to be used at this step."""

    @abstractmethod
    def leaves_out(self, entry: E, run: SamplingRun, h: Tensor, usable: bool) -> bool:
        """True to leave out the blocks of this call but the probes. `h` enters; `usable`: features are kept."""

    def computed(self, entry: E, out: Tensor) -> Tensor:
        """The output of the span from `out`, as it was computed; features are kept."""
        entry.value = self.difference(entry, out)
        return out

    def difference(self, entry: E, out: Tensor) -> Tensor:
        """The part of the span's output `out` to keep."""
        if not self._span.residual:
            return out
        assert entry.enters is not None
        return out - entry.enters

    def reused(self, entry: E) -> Tensor:
        """The output of the span by its features."""
        assert entry.value is not None
        if not self._span.residual:
            return entry.value
        assert entry.enters is not None
        return entry.enters + entry.value

    def _found(self, denoiser: Any) -> BlockSpan:
        named, kind = of(DenoiserAnswers, denoiser).reusable_spans, type(denoiser).__name__
        if named is None:
            raise ConfigError(
                f"{self.name}: {kind} does not say what may be kept from step to step; leave the adapter out, or name "
                f"blocks in its `reusable_spans` (ldm_core.contracts.BlockSpan)"
            )
        spans = [span for span in named() if len(span.blocks) > self.probes]
        if self._branch >= len(spans):
            raise ConfigError(
                f"{self.name}: branch {self._branch} of {kind}, which has {len(spans)} for it; choose a smaller one"
            )
        return spans[self._branch]

    def _entry(self, run: SamplingRun, cond: Cond) -> E | None:
        """The bundle's entry; None if there are too many in use."""
        kept: dict[int, E] = run.state(self, dict)
        found = kept.get(id(cond))
        if found is None:
            oldest = self.oldest(run)
            for key in [key for key, each in kept.items() if each.since < oldest]:
                del kept[key]
            if len(kept) >= _MOST_BUNDLES:
                return None
            found = kept[id(cond)] = self.entry(cond)
        return found

    def _call(self, place: int, forward: Callable[..., Tensor], h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        now = evaluation()
        if now is None or now.run is None or h.requires_grad:
            return forward(h, *args, **kwargs)
        entry = self._entry(now.run, now.cond)
        if entry is None:
            return forward(h, *args, **kwargs)
        out = forward(h, *args, **kwargs) if place < self.probes else None
        if place == 0:
            like = (h.shape, h.dtype, h.device)
            usable = entry.value is not None and entry.like == like and entry.since >= self.oldest(now.run)
            entry.enters, entry.like = h if out is None else out, like
            entry.left_out = self.leaves_out(entry, now.run, h, usable)
        if out is not None:
            return out
        last = place == len(self._span.blocks) - 1
        if entry.left_out:
            return self.reused(entry) if last else h.new_zeros(()).expand(entry.shapes[place])
        out = forward(h, *args, **kwargs)
        entry.shapes[place] = out.shape
        return self.computed(entry, out) if last else out
