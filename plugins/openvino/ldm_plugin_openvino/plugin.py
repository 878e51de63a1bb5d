"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The runtime."""
    return [
        Component(
            kind="runtime",
            name="openvino",
            config="ldm_plugin_openvino.config:OpenVINOConfig",
            factory="ldm_plugin_openvino.runtime:OpenVINORuntime",
            summary="denoiser and first stage converted once for OpenVINO on a CPU",
            source="OpenVINO, https://docs.openvino.ai",
        )
    ]
