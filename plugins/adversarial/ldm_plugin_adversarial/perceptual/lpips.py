"""LPIPS on VGG16: the perceptual distance of the first stages' loss.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv
1801.03924), version 0.1. The trunk is timm's VGG16; timm is imported when an :class:`LPIPS` is built, not
with this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ldm_core.errors import CheckpointError
from ldm_core.storage import shown
from ldm_core.weights.source import open_source
from ldm_plugin_adversarial.config import LPIPS_SIDE
from ldm_plugin_adversarial.perceptual.networks import imported_timm, unit

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of the five taps: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""

# Where each tap ends in torchvision's and timm's `features` sequence (past the ReLU).
_SLICES = (0, 4, 9, 16, 23, 30)
# Statistics of the ImageNet pixels, for RGB in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_TRUNK_KEY = re.compile(r"(?:^|\.)(?:net\.slice[1-5]|features)\.(\d+)\.(weight|bias)$")
_HEAD_KEY = re.compile(r"(?:^|\.)(?:lin|lins\.)([0-4])\.model\.1\.weight$")


class _Scaling(nn.Module):
    """RGB in [-1, 1] to the trunk's trained range: (x - shift) / scale."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _Head(nn.Module):
    """A weight per channel (1x1, no bias); index 0, a published dropout, does nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.constant_(convolution.weight, 1.0 / channels)
        self.model = nn.Sequential(nn.Identity(), convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LPIPS(nn.Module):
    """Perceptual distance of two images: always in eval mode, always frozen, in float32 past the trunk.

    ``LPIPS()`` has random weights (of use in tests only); :meth:`from_weights` reads trained ones. State keys are those
    of the published autoencoder checkpoints: ``net.slice1.0.weight`` ... ``net.slice5.28.bias``,
    ``lin0.model.1.weight`` ... ``lin4.model.1.weight``, ``scaling_layer.{shift,scale}``.

    Gradients flow to the images, never to the weights. ``train()`` has no effect, so training a parent does not make
    the distance stochastic. Under autocast the trunk's convolutions run in the lower precision.

    Raises LDMError if timm cannot be imported.
    """

    def __init__(self) -> None:
        super().__init__()
        features = _vgg16_features()
        self.scaling_layer = _Scaling()
        self.net = nn.ModuleDict()
        for number, (start, end) in enumerate(pairwise(_SLICES), start=1):
            piece = nn.Sequential()
            for index in range(start, end):
                piece.add_module(str(index), features[index])
            self.net[f"slice{number}"] = piece
        for number, channels in enumerate(CHANNELS):
            self.add_module(f"lin{number}", _Head(channels))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_weights(cls, *urls: str, heads: bool = True) -> LPIPS:
        """Read weights from files or URLs (.safetensors, or a .pth of plain tensors); later files win.

        The trunk may be keyed ``net.sliceS.N.*`` (CompVis, the lpips package) or ``features.N.*``
        (torchvision, timm), the heads ``linK.model.1.weight`` or ``lins.K.model.1.weight``; any prefix
        (``loss.perceptual_loss.``) and keys of anything else are passed over. Trunk and heads may come from
        two files, as they are published. With `heads` false only the trunk is read, for :meth:`features`.

        Raises StorageError (cannot be read) and CheckpointError (wrong format, keys missing, wrong shapes).
        """
        found: dict[str, Tensor] = {}
        for url in urls:
            found.update(_read(url))
        model = cls()
        source = ", ".join(shown(url) for url in urls) or "(no file given)"
        model.load_weights(found, source=source, heads=heads)
        return model

    def load_weights(self, state: Mapping[str, Tensor], *, source: str = "state", heads: bool = True) -> None:
        """Take the trunk, and with `heads` the heads, from `state`, keyed as in :meth:`from_weights`, or raise
        CheckpointError."""
        found = _recognised(state)
        wanted = ("net.", "lin") if heads else ("net.",)
        own = {k: v for k, v in self.state_dict().items() if k.startswith(wanted)}
        missing = [k for k in own if k not in found]
        if missing:
            part = "the heads (lin0..lin4)" if missing[0].startswith("lin") else "the VGG16 trunk"
            advice = f"{part} may be in a second file: give both, trunk and heads" if heads else "a VGG16 is needed"
            raise CheckpointError(
                f"LPIPS weights in {source}: {len(missing)} of {len(own)} tensors missing, "
                f"first {missing[0]!r}; {advice}"
            )
        for key, value in own.items():
            if found[key].shape != value.shape:
                raise CheckpointError(
                    f"LPIPS weights in {source}: {key} has shape {tuple(found[key].shape)}, expected "
                    f"{tuple(value.shape)}; only the VGG16 trunk without batch norm fits"
                )
        self.load_state_dict({k: found[k] for k in own}, strict=False)

    def train(self, mode: bool = True) -> LPIPS:
        """Do nothing: the distance is always in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (B, 1, 1, 1), float32, of `x` and `y` (B, 3 or 1, H, W) in [-1, 1], each side at least 16.

        One channel is shown to the trunk as grey. ValueError for unequal shapes, other channels or smaller
        sides.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < LPIPS_SIDE:
            raise ValueError(
                f"LPIPS compares two (B, 3 or 1, H, W) of equal shape with sides of at least {LPIPS_SIDE}, "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        total = torch.zeros((x.shape[0], 1, 1, 1), device=x.device)
        for number, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            with torch.autocast(x.device.type, enabled=False):
                difference = (unit(a.float()) - unit(b.float())).square()  # (B, C, h, w)
                total = total + self.get_submodule(f"lin{number}")(difference).mean((2, 3), keepdim=True)
        return total

    def features(self, x: Tensor) -> list[Tensor]:
        """The five taps (B, C, h, w) of `x` (B, 3 or 1, H, W), C as in CHANNELS, halved from tap to tap."""
        h = self.scaling_layer(x.float().expand(-1, 3, -1, -1))
        taps = []
        for piece in self.net.values():
            h = piece(h)
            taps.append(h)
        return taps


def _vgg16_features() -> Sequence[nn.Module]:
    """The layers of timm's VGG16 up to relu5_3, initialised; its classifier's weights stay unallocated."""
    timm = imported_timm()
    with torch.device("meta"):
        layers = list(timm.create_model("vgg16", pretrained=False).features)[: _SLICES[-1]]
    for layer in layers:
        layer.to_empty(device="cpu")
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers


def _read(url: str) -> dict[str, Tensor]:
    """The LPIPS tensors of a file, under this module's keys; others are not read, and no pickle is run."""
    file = open_source(url).tensors()
    return {own: file.read(stored) for own, stored in _named(file.infos).items()}


def _recognised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LPIPS tensors among `state`, under this module's keys."""
    return {own: state[stored] for own, stored in _named(state).items()}


def _named(names: Iterable[str]) -> dict[str, str]:
    """Keys of an :class:`LPIPS` -> those among `names` that mean them."""
    result: dict[str, str] = {}
    for key in names:
        if trunk := _TRUNK_KEY.search(key):
            index = int(trunk[1])
            number = sum(index >= start for start in _SLICES[:-1])
            result[f"net.slice{number}.{index}.{trunk[2]}"] = key
        elif head := _HEAD_KEY.search(key):
            result[f"lin{head[1]}.model.1.weight"] = key
    return result
