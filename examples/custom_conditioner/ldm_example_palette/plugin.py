"""The components of this distribution. Read at every start of `ldm-run`, so it imports no torch."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """A conditioner, and data to try it on."""
    return [
        Component(
            kind="conditioner",
            name="palette",
            config="ldm_example_palette.config:PaletteConfig",
            factory="ldm_example_palette.conditioner:Palette",
            summary="steers by the colours that an image holds",
            small={"width": 64},
        ),
        Component(
            kind="dataset",
            name="shapes_palette",
            config="ldm_core.builtin.shapes.config:ShapesConfig",
            factory="ldm_example_palette.data:ShapesPalette",
            summary="the embedded shapes, each picture with its palette",
        ),
    ]
