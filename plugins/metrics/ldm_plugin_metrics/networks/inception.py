"""FID's network: the Inception of 2015-12-05 (Szegedy et al., arXiv 1512.00567) as TensorFlow ran it, under the names
of its PyTorch ports.

It differs from the published Inception-v3 in places that a figure depends on: averages at a border leave padding out,
the last block has a maximum for its average, 1008 outputs, and the resize of TensorFlow 1, with a grid that starts at a
corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.errors import ConfigError
from ldm_core.model.fill import seeded, unfilled
from ldm_plugin_metrics.networks import weights
from ldm_plugin_metrics.networks.config import INCEPTION, NetworkConfig, WeightsConfig
from ldm_plugin_metrics.networks.network import Network

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The file of FID's weights, the same under both of its names."""
NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
HOW = (
    "get them once, on a machine with internet: https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    f"{NAMES[0]} (as weights, that URL or the file's path)"
)
SIDE = 299
_TAPS = {"64": "MaxPool_1", "192": "MaxPool_2", "768": "Mixed_6e"}

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]
"""A convolution: its name, channels and kernel."""
Branch = Sequence[Step | tuple[Step, ...]]
"""Convolutions one after another; those of a tuple are side by side."""


class Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(self, width: int, channels: int, kernel: Kernel, stride: int = 1, padding: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (sides[0] // 2, sides[1] // 2) if padding else (0, 0)
        self.conv = nn.Conv2d(width, channels, sides, stride, around, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, H, W) -> (B, channels, H / stride, W / stride)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, and one that begins with a pool, their channels joined.

    With `pooled`, the channels after the pool, all have stride 1. Without, the last convolutions and the pool halve
    the map.
    """

    def __init__(self, width: int, branches: Sequence[Branch], pooled: int = 0, maximum: bool = False) -> None:
        super().__init__()
        self.maximum, self.halves = maximum, not pooled
        self.paths: list[list[tuple[str, ...]]] = []
        self.width = pooled or width
        for branch in branches:
            inner, path = width, []
            for place, step in enumerate(branch):
                side: tuple[Step, ...] = step if isinstance(step[0], tuple) else (step,)  # type: ignore[assignment]
                last = self.halves and place == len(branch) - 1
                for name, channels, kernel in side:
                    self.add_module(name, Convolution(inner, channels, kernel, 2 if last else 1, not last))
                inner = sum(channels for _, channels, _ in side)
                path.append(tuple(name for name, _, _ in side))
            self.paths.append(path)
            self.width += inner
        if pooled:
            self.branch_pool = Convolution(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, H, W) -> (B, self.width, H, W), or with halved sides."""
        found = []
        for path in self.paths:
            inner = x
            for names in path:
                side = [self.get_submodule(name)(inner) for name in names]
                inner = side[0] if len(side) == 1 else torch.cat(side, 1)
            found.append(inner)
        if self.halves:
            return torch.cat([*found, F.max_pool2d(x, 3, 2)], 1)
        pool = F.max_pool2d(x, 3, 1, 1) if self.maximum else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*found, self.branch_pool(pool)], 1)


def _fives(width: int, pooled: int) -> Mixed:
    double = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    return Mixed(width, [[("branch1x1", 64, 1)], [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)], double], pooled)


def _sevens(inner: int) -> Mixed:
    wide, high = (1, 7), (7, 1)
    single: Branch = [("branch7x7_1", inner, 1), ("branch7x7_2", inner, wide), ("branch7x7_3", 192, high)]
    kernels = ((inner, high), (inner, wide), (inner, high), (192, wide))
    double: Branch = [
        ("branch7x7dbl_1", inner, 1),
        *((f"branch7x7dbl_{n}", channels, kernel) for n, (channels, kernel) in enumerate(kernels, 2)),
    ]
    return Mixed(768, [[("branch1x1", 192, 1)], single, double], 192)


def _wide(width: int, *, maximum: bool) -> Mixed:
    def split(name: str) -> tuple[Step, ...]:
        return ((f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1)))

    single: Branch = [("branch3x3_1", 384, 1), split("branch3x3_2")]
    double: Branch = [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), split("branch3x3dbl_3")]
    return Mixed(width, [[("branch1x1", 320, 1)], single, double], 192, maximum)


def _layers() -> dict[str, nn.Module]:
    """The network's layers, in their order."""
    double: Branch = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    sevens: Branch = [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3),
    ]
    return {
        "Conv2d_1a_3x3": Convolution(3, 32, 3, 2, False),
        "Conv2d_2a_3x3": Convolution(32, 32, 3, 1, False),
        "Conv2d_2b_3x3": Convolution(32, 64, 3),
        "MaxPool_1": nn.MaxPool2d(3, 2),
        "Conv2d_3b_1x1": Convolution(64, 80, 1),
        "Conv2d_4a_3x3": Convolution(80, 192, 3, 1, False),
        "MaxPool_2": nn.MaxPool2d(3, 2),
        "Mixed_5b": _fives(192, 32),
        "Mixed_5c": _fives(256, 64),
        "Mixed_5d": _fives(288, 64),
        "Mixed_6a": Mixed(288, [[("branch3x3", 384, 3)], double]),
        **{f"Mixed_6{letter}": _sevens(inner) for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True)},
        "Mixed_7a": Mixed(768, [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)], sevens]),
        "Mixed_7b": _wide(1280, maximum=False),
        "Mixed_7c": _wide(2048, maximum=True),
    }


class Inception(Network):
    """Features ``pool3`` (B, 2048) and ``logits`` (B, 1008) without their bias, as Inception scores are computed of; or
    the mean over positions of the layer before, ``64``, ``192`` or ``768`` (B, that many).

    Raises ConfigError for another layer, StorageError if the weights cannot be read, and CheckpointError if they do not
    fit.
    """

    def __init__(self, config: WeightsConfig) -> None:
        super().__init__()
        tap = config.layer if isinstance(config, NetworkConfig) else ""
        if tap and tap not in _TAPS:
            raise ConfigError(f"layer: '{tap[:80]}' is none of inception's, {', '.join(_TAPS)}; leave it out for pool3")
        seed = config.random_seed
        first: AbstractContextManager[object] = unfilled() if seed is None else seeded(seed)
        with first:
            for name, layer in _layers().items():
                self.add_module(name, layer)
            self.fc = nn.Linear(2048, 1008)
        self.tap, self.main = tap, tap or "pool3"
        self.widths = {tap: int(tap)} if tap else {"pool3": 2048, "logits": 1008}
        digest = self._filled(config)
        self.published = digest == SHA256 and not tap
        self.title = self._titled(config.random_seed, digest)
        self.source = f"FID's Inception, sha256 {digest}, {self.main}, TensorFlow 1 bilinear {SIDE}"
        self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W), uint8 -> features by name."""
        x = (resized(images.float(), SIDE) - 128) / 128
        last = _TAPS.get(self.tap)
        for name, layer in self.named_children():
            if name == "fc":
                break
            x = layer(x)
            if name == last:
                return {self.tap: x.mean((2, 3))}
        features = x.mean((2, 3))
        return {"pool3": features, "logits": features @ self.fc.weight.T}

    def _filled(self, config: WeightsConfig) -> str:
        if config.random_seed is not None:
            return weights.hash_of(self)
        tensors, source = weights.read(config, "FID's Inception network", HOW, fallback=_cached())
        weights.fit(self, tensors, "FID's Inception network", (".num_batches_tracked",))
        return source.sha256()

    def _titled(self, seed: int | None, digest: str) -> str:
        layer = f" {self.tap}" if self.tap else ""
        if digest == SHA256:
            return f"Inception{layer}"
        other = f"other weights, {digest[:8]}" if seed is None else f"random weights {seed}"
        return f"{INCEPTION} network{layer}, {other}"


def resized(x: Tensor, side: int) -> Tensor:
    """Maps (B, C, H, W) scaled to `side` x `side` as TensorFlow 1's ``resize_bilinear`` did: output i lies at
    i H / side, between the two rows there; no filter for smaller sides."""
    for axis in (3, 2):
        size = x.shape[axis]
        place = torch.arange(side, dtype=torch.float32, device=x.device) * torch.tensor(size / side)
        low = place.long()
        share = place - low
        near, far = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(size - 1))
        x = near + (far - near) * (share if axis == 3 else share.unsqueeze(1))
    return x


def _cached() -> str:
    """The file where torch-fidelity and pytorch-fid keep it, if one of them has it."""
    files = (Path(torch.hub.get_dir()) / "checkpoints" / name for name in NAMES)
    return next((str(file) for file in files if file.is_file()), "")
