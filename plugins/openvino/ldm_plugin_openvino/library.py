"""The package openvino, imported at the first use, without its reports of use to its makers."""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

from ldm_core.errors import ConfigError

_LOCK = Lock()
_CORES: list[Any] = []
_REPORTS = "openvino_telemetry"


def library() -> Any:
    """The package; ConfigError where it is not installed, or does not import.

    Its modules send events over the network by ``openvino_telemetry``, and do without where that cannot be imported:
    so it is hidden in this process, unless something else has imported it before.
    """
    with _LOCK:
        sys.modules.setdefault(_REPORTS, None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError as error:
            raise ConfigError(
                f"sample.runtime=openvino: the package openvino does not import ({error}); pip install openvino, or "
                "leave sample.runtime out"
            ) from None
        return openvino


def core() -> Any:
    """The one ``openvino.Core`` of this process, which lives as long as it does.

    The CPU's part of a core gives its thread another stack for signals, puts the stack of before back when it goes, and
    frees its own. Of two that go in the order of their making, the last puts a freed one back, and the next signal
    (Ctrl-C, or SIGTERM to a training) ends the process by a segmentation fault.
    """
    made = library().Core
    with _LOCK:
        if not _CORES:
            _CORES.append(made())
        return _CORES[0]
