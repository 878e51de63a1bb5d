"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The codec of diffusers' folders."""
    return [
        Component(
            kind="codec",
            name="diffusers",
            config="ldm_plugin_diffusers.config:DiffusersConfig",
            factory="ldm_plugin_diffusers.codec:DiffusersCodec",
            summary="folders of diffusers: autoencoders, U-Nets, text encoders, schedulers, pipelines",
            source="the folder format of diffusers 0.42 and of its versions since 0.1",
        )
    ]
