"""Options of the distances. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_plugin_metrics.networks.config import NetworkConfig


@attrs.frozen(kw_only=True)
class DistanceConfig(NetworkConfig):
    """The config of a distance of two sets by a network's features."""

    against: ClassVar[Literal["set"]] = "set"


@attrs.frozen(kw_only=True)
class FDConfig(DistanceConfig):
    """The Fréchet distance of two normal distributions with the means and covariances of the features."""

    network: str = field("", "the name of a timm network, tf_efficientnet_lite0 for one; or inception, or clip")
    allow_few: bool = field(
        False, "measure fewer pictures than the covariance needs (one more than features): a biased figure"
    )


@attrs.frozen(kw_only=True)
class KIDConfig(DistanceConfig):
    """The squared maximum mean discrepancy with the kernel (x·y / D + 1)³, unbiased (Bińkowski et al. 2018)."""

    subsets: int = field(100, "the number of subsets whose figures are averaged; 0 = all pictures at once", minimum=0)
    subset_size: int = field(1000, "pictures of a subset, on either side", minimum=2)
    subset_seed: int = field(2020, "seed of the choice", minimum=0, maximum=2**32 - 1)
