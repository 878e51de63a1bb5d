"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

_SOURCE = "TAESD, https://github.com/madebyollin/taesd"
_SMALL = {"widths": [32, 24, 16], "blocks": 2}


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """A small decoder, its training, and the command for it."""
    return [
        Component(
            kind="decoder",
            name="tiny",
            config="ldm_plugin_tiny_decoder.config:TinyDecoderConfig",
            factory="ldm_plugin_tiny_decoder.network:TinyDecoder",
            summary="a few convolutions without norms, at any size",
            source=_SOURCE,
            small=_SMALL,
        ),
        Component(
            kind="first_stage",
            name="tiny_decoder",
            config="ldm_plugin_tiny_decoder.config:TrainedDecoderConfig",
            factory="ldm_plugin_tiny_decoder.stage:TrainedDecoder",
            summary="the training of a small decoder on a trained first stage",
            source=_SOURCE,
            small=_SMALL,
        ),
        Component(
            kind="stage_objective",
            name="decoder_pixels",
            config="ldm_plugin_tiny_decoder.config:DecoderPixelsConfig",
            factory="ldm_plugin_tiny_decoder.stage:DecoderPixels",
            summary="the error of a small decoder's pixels",
        ),
        Component(
            kind="command",
            name="decoder",
            group="Train and sample",
            summary="Train a small decoder of a run's latents, for previews.",
            factory="ldm_plugin_tiny_decoder.command:decoder",
        ),
    ]
