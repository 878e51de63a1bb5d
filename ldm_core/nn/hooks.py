"""Blocks and what adapters put into them: hooks that ask for the evaluation, and calls in place of a block's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ldm_core.contracts.current import token_grid
from ldm_core.nn.changed_weight import CHANGES

Around: TypeAlias = "Callable[..., object]"
"""``call(forward, *args, **kwargs)`` -> the module's output; it may leave `forward` out."""
_HOOKS = "_surrounding_hooks"
"""The attribute of a surrounded module: the calls by number."""


def asked(block: nn.Module) -> bool:
    """False where nobody in `block` can ask for the evaluation: it is being compiled, and has no hooks and no changed
    weights. Compiled code without them then reads no context variable."""
    return not torch.compiler.is_compiling() or any(
        m._forward_hooks or m._forward_pre_hooks or _HOOKS in m.__dict__ or CHANGES in m.__dict__
        for m in block.modules()
    )


def on_grid(block: nn.Module, size: Sequence[int]) -> AbstractContextManager[None]:
    """A context in which the hooks of `block` see `size` as the axes of the tokens."""
    return token_grid(size) if asked(block) else nullcontext()


class Surrounding:
    """Takes a call away from around a module again."""

    def __init__(self, module: nn.Module, number: int) -> None:
        self._module, self._number = module, number

    def remove(self) -> None:
        """Take it away; nothing happens the second time."""
        self._module.__dict__.get(_HOOKS, {}).pop(self._number, None)


def surround(module: nn.Module, call: Around) -> Surrounding:
    """Let ``call(forward, *args, **kwargs)`` stand for the forward of `module`, as no hook can leave a block out (a
    cache). Of several calls the last one stands outside. Modules, state keys and weights stay as they are."""
    if _HOOKS not in module.__dict__:
        module.__dict__[_HOOKS] = {}
        module.forward = partial(_surrounded, module, module.forward)
    number = RemovableHandle.next_id
    RemovableHandle.next_id += 1
    module.__dict__[_HOOKS][number] = call
    return Surrounding(module, number)


def _surrounded(module: nn.Module, forward: Around, *args: object, **kwargs: object) -> object:
    for call in list(module.__dict__[_HOOKS].values()):
        forward = partial(call, forward)
    return forward(*args, **kwargs)
