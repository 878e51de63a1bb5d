"""The pipeline of a metric, and pictures in the model's range."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ldm_core.contracts import Pictures
from ldm_core.errors import DataError


def pipeline_of(pictures: Pictures, name: str) -> Any:
    """The pipeline; DataError if pictures come alone. `name` is the metric's."""
    if pictures.pipeline is None:
        raise DataError(f"{name} asks the model, and there are pictures alone; evaluate a run's folder")
    return pictures.pipeline


def shown(pictures: Pictures, stage: nn.Module) -> Tensor:
    """The pictures (B, c, H, W), float32 in [-1, 1], on the device of the first stage."""
    held = next(iter(stage.state_dict().values()), pictures.images)
    return pictures.images.to(held.device).float() / 127.5 - 1
