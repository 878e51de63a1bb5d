"""The door through which timm and transformers are imported, whatever torchvision lies beside torch.

Both import torchvision where there is one. A torchvision that was built for another torch (the index's beside a CPU
build, for one) cannot load its binary, and then fails where it describes operators that the binary would have declared:
``operator torchvision::nms does not exist``. No network calls them, so declaring them is enough.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
"""The one of nms and qnms, which torchvision 0.28 describes unasked; without a kernel it serves for any name."""
_MOST = 16
_lock = threading.RLock()
_declared: list[torch.library.Library] = []  # operators vanish with their library


@contextmanager
def importable() -> Iterator[None]:
    """Inside, ``import timm`` and ``import transformers`` find a torchvision that imports, or none.

    Operators are declared for one that lacks nothing else, and stay declared. One that fails for another reason is out
    of sight until the block is left: transformers does without it; timm, which needs it, raises ImportError. Nothing
    happens where torchvision is right, has been imported or is not there. Threads take turns.
    """
    with _lock:
        if "torchvision" in sys.modules or _imports():
            yield
            return
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules["torchvision"]


def _imports() -> bool:
    """Import torchvision; each operator whose lack it reports is declared, and it is tried again."""
    for _ in range(_MOST):
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # it raises what it likes: RuntimeError for an operator
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            missing = _MISSING.search(str(error))
            if not missing:
                return False
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(missing[1] + _SCHEMA)
            _declared.append(library)
        else:
            return True
    return False
