"""The catalog of a call of ``ldm-run``. Imports click alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog

_KEY = "ldm-run catalog"


def installed(kind: str = "") -> Catalog:
    """Discover the catalog, or the components of one kind alone, once for each call of ``ldm-run``."""
    from ldm_core.catalog import Catalog

    context = click.get_current_context(silent=True)
    meta = {} if context is None else context.meta
    for key in (_KEY, _KEY + kind):
        if key in meta:
            found: Catalog = meta[key]
            return found
    return meta.setdefault(_KEY + kind, Catalog.discover(kinds={kind} if kind else None))
