"""Settings of torch's runtimes. Imports no torch."""

from __future__ import annotations

import attrs

from ldm_core.contracts import RuntimeConfig


@attrs.frozen(kw_only=True)
class TorchConfig(RuntimeConfig):
    """Torch's own calls."""

    keeps_hooks = True


@attrs.frozen(kw_only=True)
class CompiledConfig(RuntimeConfig):
    """Blocks compiled by torch.compile, at the first call."""
