"""The installed components: their descriptors, their hooks, and their catalog."""

from __future__ import annotations

from ldm_core.catalog.catalog import Broken as Broken
from ldm_core.catalog.catalog import Catalog as Catalog
from ldm_core.catalog.catalog import Entry as Entry
from ldm_core.catalog.component import API_VERSION as API_VERSION
from ldm_core.catalog.component import KINDS as KINDS
from ldm_core.catalog.component import Component as Component
from ldm_core.catalog.hookspecs import hookimpl as hookimpl
from ldm_core.catalog.hookspecs import hookspec as hookspec
from ldm_core.catalog.release import VERSION as VERSION
