"""A perceptual distance on the feature maps of any timm network.

At each position the maps' channel vectors are scaled to length 1, as in Zhang et al. (arXiv 1801.03924, equation 1);
layers have weights, in place of learned ones for their channels. timm is imported when a network is built, not with
this module; weights come from a path or URL, and nothing is ever fetched unasked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import storage
from ldm_core.errors import CheckpointError, ConfigError, StorageError, clean
from ldm_core.weights.source import open_source
from ldm_plugin_adversarial.perceptual.config import FeaturesConfig, how_to_get
from ldm_plugin_adversarial.perceptual.networks import imported_timm, unit

_NAME = re.compile(r"(\w+)(\.\w+)?")
_WRAPPERS = ("module.", "model.")
"""Prefixes of a whole network's names in training scripts."""
_COUNTER = ".num_batches_tracked"
"""A count of batch norm: old files lack it, and nothing reads it in eval mode."""
_KEY = "stage_objective.perceptual"
_SHOWN = 4
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _EnoughError(Exception):
    """The last map is there."""


_maps: ContextVar[dict[str, Any]] = ContextVar("_maps")
"""The maps of the pass under way, in each thread its own."""


class FeatureNetwork(nn.Module):
    """Feature maps of a trained timm network: always in eval mode, always frozen, weights in float32.

    The maps are the outputs of the config's `layers`, or of the ends of the network's stages as timm lists them. Images
    are scaled (bilinear) to the config's `size`, to the network's own where it takes but one, else only up, until the
    deepest map has a position. No module past the last layer is run. Under autocast the network runs in the lower
    precision. Several threads may call it at once.

    Raises LDMError if timm cannot be imported, ConfigError for an unknown network or layer, StorageError if the weights
    cannot be read, and CheckpointError if they do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.network = _trained(config)
        facts = vars(self.network)
        cfg: Mapping[str, Any] = facts.get("pretrained_cfg") or {}
        stages = {str(stage["module"]): int(stage["reduction"]) for stage in facts.get("feature_info") or ()}
        self.layers = _layers(config, dict(self.network.named_modules()), tuple(stages))
        self._last = facts.get("output_fmt") == "NHWC"
        own = cfg.get("input_size") if cfg.get("fixed_input_size") else None
        self._side = (config.size, config.size) if config.size else tuple(own[1:]) if own else None
        self._least = max(stages.get(name, 1) for name in self.layers)
        for name, given, default in zip(("mean", "std"), (config.mean, config.std), _IMAGENET, strict=True):
            value = torch.tensor(given or cfg.get(name) or default)
            self.register_buffer(name, value.view(1, -1, 1, 1), persistent=False)
        for name in self.layers:
            self.network.get_submodule(name).register_forward_hook(self._keeping(name))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Do nothing: the network is always in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps (B, C, h, w) of images `x` (B, 3 or 1, H, W) in [-1, 1]; one channel is shown as grey. Tokens are
        (B, C, L, 1)."""
        x = (x.float().expand(-1, 3, -1, -1) + 1.0) / 2.0
        side = self._side or tuple(max(s, self._least) for s in x.shape[2:])
        if side != tuple(x.shape[2:]):
            x = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=True)
        found: dict[str, Any] = {}
        token = _maps.set(found)
        try:
            with suppress(_EnoughError):
                self.network((x - self.mean) / self.std)
        finally:
            _maps.reset(token)
        return [self._map(name, found.get(name)) for name in self.layers]

    def _keeping(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found = _maps.get()
            # a copy: the next layer may work in place
            found[name] = output.clone() if isinstance(output, Tensor) else output
            if len(found) == len(self.layers):
                raise _EnoughError

        return keep

    def _map(self, name: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not 2 <= value.dim() <= 4:
            what = "is not run" if value is None else "gives no feature map"
            raise ConfigError(f"{_KEY}.layers: '{name}' {what} when the network sees an image; name another layer")
        if value.dim() == 4:
            return value.movedim(-1, 1) if self._last else value
        return value.unflatten(-1, (-1, 1)).movedim(-2, 1) if value.dim() == 3 else value[:, :, None, None]


class FeatureDistance(nn.Module):
    """Perceptual distance of two images on the maps of a :class:`FeatureNetwork`: frozen, in eval mode.

    The sum over the layers of its weight (the config's `layer_weights`, else equal ones that add up to 1) times the
    squared Euclidean distance of the unit channel vectors, averaged over positions: from 0 to 4, or to 2 where maps are
    not negative. Gradients flow to the images, never to the weights. Under autocast the network's layers run in the
    lower precision; vectors, distances and sums are float32.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.features = FeatureNetwork(config)
        count = len(self.features.layers)
        self.weights = tuple(config.layer_weights) or (1.0 / count,) * count
        if len(self.weights) != count:
            named = ", ".join(self.features.layers)
            raise ConfigError(f"{_KEY}.layer_weights: {len(self.weights)} weights for {count} layers ({named})")
        self.eval()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Do nothing: the distance is always in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (B, 1, 1, 1), float32, of `x` and `y` (B, 3 or 1, H, W) in [-1, 1]. ValueError for unequal shapes or
        other channels."""
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"expected two (B, 3 or 1, H, W) of equal shape, got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        total = torch.zeros((x.shape[0], 1, 1, 1), device=x.device)
        for weight, a, b in zip(self.weights, self.features(x), self.features(y), strict=True):
            with torch.autocast(x.device.type, enabled=False):
                distance = (unit(a.float()) - unit(b.float())).square().sum(1, keepdim=True)  # (B, 1, h, w)
                total = total + weight * distance.mean((2, 3), keepdim=True)
        return total


def _trained(config: FeaturesConfig) -> nn.Module:
    """The network without its classifier, with its weights."""
    timm, name = imported_timm(), config.network
    match = _NAME.fullmatch(name)
    if not match or not timm.is_model(match[1]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(f"{_KEY}.network: timm {timm.__version__} has no network '{clean(name, 80)}'{hint}")
    if not config.weights:
        raise ConfigError(f"{_KEY}.weights: path or URL of weights of {name}; {how_to_get(name)}")
    try:
        source = open_source(config.weights, sha256=config.weights_sha256)
        file = source.tensors()
    except (CheckpointError, StorageError) as error:
        if storage.exists(config.weights):
            raise
        raise StorageError(f"{_KEY}.weights: {error}; {how_to_get(name)}") from error
    with torch.random.fork_rng(devices=[]):  # its random first weights are no part of the run's
        try:
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        except (RuntimeError, ValueError) as error:  # a tag that is not there, for one
            raise ConfigError(f"{_KEY}.network: timm cannot make '{name}' ({clean(error)})") from error
    taken = _fitting(network, {k: tuple(v.shape) for k, v in file.infos.items()}, name, source.url)
    network.load_state_dict({own: file.read(stored) for own, stored in taken.items()}, strict=False)
    return network


def _layers(config: FeaturesConfig, modules: Mapping[str, nn.Module], stages: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the layers of a config, each in the network; the stages' ends for none."""
    for name in config.layers:
        if not name or name not in modules:
            near = [each for each in difflib.get_close_matches(name, modules, n=3) if each not in stages]
            listed = ", ".join((*stages, *near)) or "those of its named_modules()"
            raise ConfigError(
                f"{_KEY}.layers: {config.network} has no layer '{clean(name, 80)}'; there are {listed}, for some"
            )
    if not config.layers and not stages:
        raise ConfigError(f"{_KEY}.layers: timm lists no stages of {config.network}; name the layers")
    return tuple(dict.fromkeys(config.layers)) or stages


def _fitting(network: nn.Module, stored: Mapping[str, tuple[int, ...]], name: str, where: str) -> dict[str, str]:
    """Names of the network's tensors -> names in the file; CheckpointError where the two do not fit."""
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    wrapper = max(("", *_WRAPPERS), key=lambda word: sum(f"{word}{k}" in stored for k in own))
    named = {k.removeprefix(wrapper): k for k in stored}
    classifier = vars(network).get("pretrained_cfg", {}).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    missing = [k for k in own if k not in named and not k.endswith(_COUNTER)]
    others = [k for k in named if k not in own and not k.startswith(tuple(f"{head}." for head in heads))]
    shapes = [
        f"{k} {stored[named[k]]} for {shape}" for k, shape in own.items() if k in named and stored[named[k]] != shape
    ]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for keys, what in ((missing, "missing"), (others, "of another network"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{_KEY}.weights: {where} does not fit timm's {name}, of {len(own)} tensors: {'; '.join(problems)}"
        )
    return {k: named[k] for k in own if k in named}
