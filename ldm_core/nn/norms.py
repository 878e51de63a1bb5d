"""Normalisation and initialisation that every network here shares."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def group_norm(channels: int, groups: int = 32, *, eps: float = 1e-6) -> nn.GroupNorm:
    """Group normalisation over `channels`, which `groups` must divide (ValueError from torch otherwise).

    The autoencoders and the spatial transformer use eps 1e-6, the U-Net's own blocks 1e-5. torch's kernels
    accumulate in float32 for lower-precision inputs, so no cast is needed around it.
    """
    return _GroupNorm(groups, channels, eps=eps)


_MANY, _VECTOR = 1024, 16
"""Positions from which a CPU norms channels-last maps in another way, and the channels of one instruction."""


class _GroupNorm(nn.GroupNorm):
    """torch's, computed in float32 in cases of a kernel for bfloat16 up to four times as slow: on a CPU, channels
    last, for few positions of groups that fill no whole instructions. In sampling alone; a training's maps lie channels
    first."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or input.device.type != "cpu" or input.dtype != torch.bfloat16:
            return super().forward(input)
        odd = (self.num_channels // self.num_groups) % _VECTOR != 0
        if torch.is_grad_enabled() or not odd or not _few_and_channels_last(input):
            return super().forward(input)
        return F.group_norm(input.float(), self.num_groups, self.weight, self.bias, self.eps).to(input.dtype)


def _few_and_channels_last(x: Tensor) -> bool:
    few = x.dim() == 4 and x.shape[2] * x.shape[3] < _MANY
    return few and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def zero_init(module: ModuleT) -> ModuleT:
    """Set every parameter of `module` to zero and return it: its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
