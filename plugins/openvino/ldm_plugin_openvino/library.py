"""The package openvino, imported at the first use, without its reports of use to its makers."""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

from ldm_core.errors import ConfigError

_LOCK = Lock()
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
