"""The learned perceptual distance."""

from __future__ import annotations

import numpy as np
import torch
from ldm_plugin_adversarial.perceptual.lpips import LPIPS
from numpy.typing import NDArray
from torch import nn

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import ConfigError
from ldm_core.weights.source import open_source
from ldm_plugin_metrics.means import MeanMetric
from ldm_plugin_metrics.networks.network import single
from ldm_plugin_metrics.pairs.config import LPIPS_SIDE, LPIPSConfig
from ldm_plugin_metrics.pairs.pairs import pair


class LPIPSMetric(MeanMetric, nn.Module):
    """LPIPS on VGG16, version 0.1, averaged over pictures; one channel is shown as grey.

    The published figures of restoration are mostly of AlexNet, and are others: the label says VGG16. Source: Zhang et
    al. 2018, arXiv 1801.03924. Raises ConfigError without weights, and CheckpointError or StorageError for
    unreadable ones and those of another network.
    """

    name = "lpips"
    label = "LPIPS (VGG16)"

    def __init__(self, config: LPIPSConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        files = [file for file in config.weights.split(",") if file]
        if not files:
            raise ConfigError("lpips: weights: path or URL is missing (a VGG16 and LPIPS' heads: FILE, or TRUNK,HEADS)")
        self.network = LPIPS.from_weights(*files)
        hashes = ", ".join(open_source(file).sha256()[:16] for file in files)
        self.source = f"LPIPS 0.1 on VGG16, weights {hashes}"

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One number a picture."""
        images, originals = pair(pictures, self.name, LPIPS_SIDE)
        with torch.no_grad(), single(images.device):
            far = self.network(*(each.float() / 127.5 - 1 for each in (images, originals)))
        return {"lpips": far.flatten().double().cpu().numpy()}
