"""Options of the codec. Imports no torch."""

from __future__ import annotations

import attrs

from ldm_core.contracts.configs import CodecConfig


@attrs.frozen(kw_only=True)
class ONNXConfig(CodecConfig):
    """A folder of networks, with one file of weights and one of all else."""
