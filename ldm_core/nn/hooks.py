"""Blocks and the hooks inside them that ask for the evaluation (:func:`ldm_core.contracts.evaluation`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ldm_core.contracts.current import token_grid


def asked(block: nn.Module) -> bool:
    """False where nobody in `block` can ask for the evaluation: it is being compiled and has no hooks. Compiled code
    without them then reads no context variable."""
    return not torch.compiler.is_compiling() or any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def on_grid(block: nn.Module, size: Sequence[int]) -> AbstractContextManager[None]:
    """A context in which the hooks of `block` see `size` as the axes of the tokens."""
    return token_grid(size) if asked(block) else nullcontext()
