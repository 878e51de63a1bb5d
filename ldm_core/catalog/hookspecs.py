"""Every hook there is: the whole extension surface on one page.

A plugin's module is named by an entry point in the group ``ldm_core`` and implements hooks with :data:`hookimpl`.
An implementation may take fewer arguments than its spec. Installed is not enabled: components come into a run only
when a recipe names them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ldm_core.catalog.component import Component

PROJECT = "ldm_core"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# ------------------------------------------------------------------------------------------------- components


@hookspec
def ldm_components(kinds: Collection[str] | None) -> Iterable[Component]:  # type: ignore[empty-body]
    """Describe this plugin's components. Called when a catalog is made; must not import what it describes.

    `kinds`: those that are asked for, None = all. Others are left out by the catalog, so most plugins take no argument.

    Example::

        @hookimpl
        def ldm_components():
            return [
                Component(
                    kind="conditioner",
                    name="palette",
                    config=PaletteConfig,
                    factory="my_package.palette:PaletteConditioner",
                    summary="steers by a colour palette",
                )
            ]
    """


# --------------------------------------------------------------------------------------------- observer hooks


@hookspec
def ldm_run_start(recipe: Mapping[str, Any], out: str) -> None:
    """A run begins: its resolved recipe as plain values, with the names of local files in place of their paths (it may
    leave this machine), and the URL of its folder."""


@hookspec
def ldm_stage_start(stage: str, steps: int, start: int) -> None:
    """A stage (``first_stage``, ``latents``, ``denoiser``, ``samples``) begins: `steps` in all, at step `start`."""


@hookspec
def ldm_step(stage: str, step: int, logs: Mapping[str, float]) -> None:
    """Step `step` (counted from 1) of `stage` is done; `logs` holds floats, empty between logging intervals."""


@hookspec
def ldm_images(stage: str, step: int, name: str, url: str) -> None:
    """A picture (samples, reconstructions, curves) was written to `url`."""


@hookspec
def ldm_stage_pictures(stage: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, bytes]:  # type: ignore[empty-body]
    """Draw the trained `stage`: PNGs, each by a lower-case word. ``loss`` becomes ``<stage>_loss.png`` in the run's
    folder, and the observers are told of it.

    `rows`: those of metrics.jsonl so far, of all stages (``{"stage": "denoiser", "step": 50, "loss": 0.5}``; None for
    a number that is not finite).
    """


@hookspec
def ldm_message(text: str, level: str) -> None:
    """A line for the user; `level` is ``info`` or ``warning``."""


@hookspec
def ldm_stage_end(stage: str, status: str) -> None:
    """A stage ended: `status` is ``done``, ``skipped``, ``interrupted`` or ``failed``."""


@hookspec
def ldm_run_end(status: str) -> None:
    """The run ended: ``done``, ``interrupted`` or ``failed``."""
