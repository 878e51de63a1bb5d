"""Settings of the OpenVINO runtime. Imports neither torch nor openvino."""

from __future__ import annotations

import attrs

from ldm_core.contracts import RuntimeConfig


@attrs.frozen(kw_only=True)
class OpenVINOConfig(RuntimeConfig):
    """OpenVINO on the CPU, with as many threads as torch has."""
