"""Recomputing activations in the backward pass, block by block: less memory for about a third more arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldm_core.contracts.current import Evaluation, during, evaluation
from ldm_core.nn.hooks import asked

T = TypeVar("T")


def recompute(blocks: Iterable[nn.Module]) -> int:
    """Let each of `blocks` keep its inputs alone and run again in the backward pass; returns how many there are.

    Gradients stay the same, dropout and hooks that read the evaluation included. It holds in training with gradients,
    and in :func:`in_little_memory`; names of parameters do not change, and a second call changes nothing.
    """
    count = 0
    for block in blocks:
        count += 1
        forward = block.forward  # read once: another thread may be at it
        if not isinstance(forward, partial):
            block.forward = partial(_run, block, forward)
    return count


_LITTLE: ContextVar[bool] = ContextVar("ldm_core_recomputing", default=False)


@contextmanager
def in_little_memory() -> Iterator[None]:
    """A context for gradients through models and first stages outside of training: those that name blocks keep what
    enters the blocks alone, and run them again in the backward pass. It holds for this thread, and changes no value."""
    token = _LITTLE.set(True)
    try:
        yield
    finally:
        _LITTLE.reset(token)


def recomputing() -> bool:
    """True inside of :func:`in_little_memory` where gradients are wanted."""
    return _LITTLE.get() and torch.is_grad_enabled()


def _run(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not ((block.training or _LITTLE.get()) and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    if asked(block) and (now := evaluation()) is not None:
        forward = _within(now, forward)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _within(now: Evaluation, forward: Callable[..., T]) -> Callable[..., T]:
    """The block in the evaluation that it is part of: the backward pass comes after it, maybe in another thread."""

    def again(*args: object, **kwargs: object) -> T:
        with during(now):
            return forward(*args, **kwargs)

    return again
