"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The codec of folders of ONNX networks."""
    return [
        Component(
            kind="codec",
            name="onnx",
            config="ldm_plugin_onnx.config:ONNXConfig",
            factory="ldm_plugin_onnx.codec:ONNXCodec",
            summary="folders of ONNX networks, for programs without torch",
            source="ONNX, https://onnx.ai",
        )
    ]
