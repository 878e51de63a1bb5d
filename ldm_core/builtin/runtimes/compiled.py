"""Networks compiled by torch, block by block.

A block is compiled by itself: compiling takes a fraction of the time for a whole network, and equal blocks come from
inductor's cache on disk, also in later processes. Sizes are symbols in this code: it computes another batch, another
size of latents and other lengths of prompts without compiling anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.builtin.runtimes.config import CompiledConfig
from ldm_core.contracts import Network, PartAnswers, Runtime, Site, configs
from ldm_core.errors import ConfigError
from ldm_core.launch.compilers import lacking
from ldm_core.model.shared import shared_copy

_APART = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
"""Torch compiles one class of blocks for eight of them and no more, unless each counts by itself, as since torch 2.13.
Before, networks are compiled whole."""


class CompiledRuntime(Runtime):
    """The denoiser's and the first stage's blocks, each compiled by itself; the code between them stays torch's."""

    def __init__(self, config: CompiledConfig, site: Site) -> None:
        self.words = f"compiled (torch {torch.__version__})"

    def function(self, network: Network) -> Callable[..., Tensor]:
        """The function of a copy of the module, with its tensors, whose blocks are compiled at the first call.
        ConfigError where no compiler is found."""
        device = next((p.device.type for p in network.module.parameters()), "cpu")
        if line := lacking(device):
            raise ConfigError(f"sample.runtime=compiled: {line}, or leave the setting out")
        module = shared_copy([network.module], frozenset())[network.module]
        call = Network(network.name, module).call
        blocks = dict.fromkeys(block for part in module.modules() for block in _named_by(part)) if _APART else {}
        for block in blocks:
            block.compile(dynamic=True, **_APART)
        made: Any = call if blocks else torch.compile(call, dynamic=True)
        return made


def _named_by(part: nn.Module) -> Sequence[nn.Module]:
    named = configs.of(PartAnswers, part).recompute_blocks
    return () if named is None else named()
