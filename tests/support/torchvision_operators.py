"""Lets timm, lpips and transformers import beside a torchvision that was built for another torch.

A CPU-only torch with the index's torchvision fails at import, where torchvision describes two operators that its
unloadable binary would have declared. Nothing here calls them, so declaring them is enough.
"""

from __future__ import annotations

import importlib
import sys

import torch

_kept: list[object] = []  # a library's operators vanish with it


def declare_torchvision_operators() -> None:
    """Declare them where torchvision does not import without; ImportError where there is no torchvision."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
