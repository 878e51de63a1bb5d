"""A network that makes features of pictures: frozen, in eval mode, in float32."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldm_core.contracts import Pictures
from ldm_core.errors import DataError


class Network(nn.Module):
    """Features of pictures by name, each (B, width) float32.

    `source` names the network, its weights by their hash, and the way from pixels to its input, in one line; `title` is
    its name for readers, and says of weights that are not the published ones what they are. `widths` are the numbers of
    features by name, and `main` is the name of those that distances compare.
    """

    source: str
    title: str
    published = False
    main: str
    widths: Mapping[str, int]

    def train(self, mode: bool = True) -> Network:
        """Do nothing: the network is always in eval mode."""
        return super().train(False)

    def freeze(self) -> None:
        """Leave the weights to no optimizer."""
        self.requires_grad_(False)
        self.eval()

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W), uint8 -> features by name, (B, width) float32."""

    def rows(self, pictures: Pictures, name: str) -> NDArray[np.float32]:
        """The features `name` of pictures, (B, width). All metrics with this network have them from one pass."""
        made: dict[str, NDArray[np.float32]] = pictures.again(
            ("features", self.source), lambda: self._measured(pictures.images)
        )
        return made[name]

    def _measured(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        seen = rgb(images)
        if seen.device.type == "cpu":  # convolutions take two thirds of the time in this order of the axes
            seen = seen.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(seen.device.type, enabled=False), single(seen.device):
            return {name: value.float().cpu().numpy() for name, value in self(seen).items()}


def rgb(images: Tensor) -> Tensor:
    """Pictures (B, 1 or 3, H, W), uint8, as colours; one channel is shown as grey. DataError for others."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"features are made of 8-bit pictures with 1 or 3 channels, and these are {tuple(images.shape)} of "
            f"{str(images.dtype).removeprefix('torch.')}; give RGB or grey ones"
        )
    return images.expand(-1, 3, -1, -1)


def single(device: torch.device) -> AbstractContextManager[Any]:
    """Convolutions in float32 proper: on NVIDIA's they are rounded to 10 bits by default."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags
