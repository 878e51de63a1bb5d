"""Normalisation and initialisation that every network here shares."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def group_norm(channels: int, groups: int = 32, *, eps: float = 1e-6) -> nn.GroupNorm:
    """Group normalisation over `channels`, which `groups` must divide (ValueError from torch otherwise).

    The autoencoders and the spatial transformer use eps 1e-6, the U-Net's own blocks 1e-5. torch's kernels
    accumulate in float32 for lower-precision inputs, so no cast is needed around it.
    """
    return nn.GroupNorm(groups, channels, eps=eps)


def zero_init(module: ModuleT) -> ModuleT:
    """Set every parameter of `module` to zero and return it: its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
