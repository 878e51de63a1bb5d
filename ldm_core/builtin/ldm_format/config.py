"""Options of the codec of this package's own files. Imports no torch."""

from __future__ import annotations

from typing import ClassVar

import attrs


@attrs.frozen(kw_only=True)
class LdmCodecConfig:
    """A run's folder or file says everything by itself."""

    alone: bool = attrs.field(
        default=False, metadata={"help": "write a denoiser without a first stage: to start from, not to sample from"}
    )
    writes_adapters: ClassVar[bool] = True
