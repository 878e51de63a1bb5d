"""Options of the distances. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_plugin_metrics.networks.config import NetworkConfig, WeightsConfig


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
class FIDConfig(WeightsConfig):
    """The Fréchet distance by the features of FID's Inception network, with its published weights: those of `weights`,
    or the file that pytorch-fid or torch-fidelity has fetched. With others the figure is called fd."""

    against: ClassVar[Literal["set"]] = "set"

    allow_few: bool = field(False, "measure fewer than 2049 pictures, which the covariance needs: a biased figure")


@attrs.frozen(kw_only=True)
class InceptionScoreConfig(WeightsConfig):
    """exp E KL(p(y|x) || p(y)) by the classes of FID's Inception network (Salimans et al. 2016), over splits."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("inception_score",)

    splits: int = field(10, "parts of the set whose scores are averaged", minimum=1)
    split_seed: int = field(2020, "seed of the parts", minimum=0, maximum=2**32 - 1)


@attrs.frozen(kw_only=True)
class PrecisionRecallConfig(DistanceConfig):
    """Shares of the samples near real pictures, and of real pictures near samples (Kynkäänniemi et al. 2019)."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("precision", "recall")

    neighbours: int = field(3, "a picture's ball reaches to this nearest other picture of its set", minimum=1)


@attrs.frozen(kw_only=True)
class DensityCoverageConfig(DistanceConfig):
    """Real balls around a sample, and the share of real balls with a sample in them (Naeem et al. 2020)."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("density", "coverage")

    neighbours: int = field(5, "a real picture's ball reaches to this nearest other real picture", minimum=1)


@attrs.frozen(kw_only=True)
class KIDConfig(DistanceConfig):
    """The squared maximum mean discrepancy with the kernel (x·y / D + 1)³, unbiased (Bińkowski et al. 2018)."""

    subsets: int = field(100, "the number of subsets whose figures are averaged; 0 = all pictures at once", minimum=0)
    subset_size: int = field(1000, "pictures of a subset, on either side", minimum=2)
    subset_seed: int = field(2020, "seed of the choice", minimum=0, maximum=2**32 - 1)


@attrs.frozen(kw_only=True)
class CMMDConfig(WeightsConfig):
    """1000 times the squared maximum mean discrepancy of CLIP's embeddings of pictures, with a Gaussian kernel of width
    10 (Jayasumana et al. 2024). `weights` are a folder or file of transformers' CLIP, clip-vit-large-patch14-336 in the
    paper."""

    against: ClassVar[Literal["set"]] = "set"


PRESETS: Mapping[str, FDConfig | FIDConfig] = {
    "rfid": FIDConfig(subject="reconstructions"),
    "rfd": FDConfig(subject="reconstructions"),
    "fd_dinov2": FDConfig(network="vit_large_patch14_dinov2.lvd142m", size=224),
}
"""Distances of reconstructions, and one by DINOv2's features."""
