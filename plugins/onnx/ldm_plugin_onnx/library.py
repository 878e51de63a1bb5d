"""The packages for exporting and checking networks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ldm_core.errors import ConfigError


def packages() -> tuple[Any, Any]:
    """The modules ``onnx`` and ``onnxruntime``; ConfigError if one does not import."""
    found = []
    for name in ("onnx", "onnxruntime"):
        try:
            found.append(import_module(name))
        except ImportError as error:
            raise ConfigError(
                f"onnx: the package {name} does not import ({error}); pip install onnx onnxruntime"
            ) from None
    return found[0], found[1]
