"""The hash of all that a converted network was made of: weights, structure, inputs, versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import Network

_FORM = 1
"""Number of the way in which this package converts; another way is another number."""
_PLAIN = (bool, int, float, str, tuple, type(None))


def module_hash(network: Network) -> str:
    """64 hex digits of a network's weights, to the bit, and of the numbers in its modules."""
    made = hashlib.sha256()
    for line in _structure(network):
        made.update(line.encode())
    for name, value in network.module.state_dict().items():
        if isinstance(value, Tensor):
            made.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            made.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def key_of(weights: str, inputs: object) -> str:
    """The name of a converted network: of the :func:`module_hash` of its weights, and the inputs it was made for."""
    versions = {name: metadata.version(name) for name in ("ldm-core", "ldm-plugin-openvino", "openvino", "torch")}
    text = json.dumps([_FORM, weights, repr(inputs), versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _structure(network: Network) -> Iterator[str]:
    yield f"{network.name}\n"
    for name, module in network.module.named_modules():
        plain = {key: value for key, value in vars(module).items() if _is_plain(key, value)}
        yield f"{name} {type(module).__module__}.{type(module).__qualname__} {sorted(plain.items())}\n"


def _is_plain(key: str, value: Any) -> bool:
    return key != "training" and isinstance(value, _PLAIN) and not isinstance(value, nn.Module)
