"""Options of the CompVis codec. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

import attrs

from ldm_plugin_compvis.conventions import conventions


def _not_negative(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name}: expected a number above 0, or 0 for what the file says, got {value}")


@attrs.frozen(kw_only=True)
class CompVisConfig:
    """Checkpoints of CompVis latent diffusion (`.ckpt`, `.safetensors`) and Stable Diffusion 1 and 2 single files."""

    conventions = staticmethod(conventions)
    """The original scripts' way to sample a model (``--like compvis``)."""

    ema: bool = attrs.field(default=True, metadata={"help": "read the averaged weights where the file has them"})
    scale_factor: float = attrs.field(
        default=0.0,
        validator=_not_negative,
        metadata={
            "help": "reading: the latents' scale factor (std 1/scale_factor); 0: what the file, its config or the "
            "table of released models says"
        },
    )
    write_ema: bool = attrs.field(
        default=False, metadata={"help": "writing: hold the denoiser's weights as model_ema.* as well"}
    )
    scale_by_std: bool = attrs.field(
        default=False,
        metadata={
            "help": "writing: hold the scale factor as a tensor, as files trained with scale_by_std do (and those read "
            "from one); else it is in the configuration alone"
        },
    )
