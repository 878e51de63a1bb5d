"""The file of a report: its place, and the guard of other files there."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_core import storage
from ldm_core.errors import ConfigError
from ldm_plugin_report.page.page import GENERATOR

REPORT, COMPARISON = "report.html", "comparison.html"
"""The names of a report in its run's folder, and of a comparison in the current one."""
_HEAD = 4096


def target(runs: Sequence[str], out: str, *, force: bool = False) -> str:
    """The URL of the file. :class:`ConfigError` if another file is there, or nothing can be written."""
    url = out or (COMPARISON if len(runs) > 1 else storage.join(runs[0], REPORT))
    if storage.protocol(url) in ("http", "https"):
        raise ConfigError(f"{storage.shown(url)}: nothing can be written there; give a file of your own with --out")
    if storage.is_folder(url):
        raise ConfigError(f"{storage.shown(url)}: is a folder; --out takes a file, such as report.html")
    if not force and storage.exists(url) and not _is_report(url):
        raise ConfigError(f"{storage.shown(url)}: is no report; move it away, choose another --out, or give --force")
    return url


def _is_report(url: str) -> bool:
    head = storage.read_bytes(url, 0, min(_HEAD, storage.info(url).size))
    return f'name="generator" content="{GENERATOR}"'.encode() in head


def write(url: str, page: str) -> int:
    """Write the page and count its bytes."""
    data = page.encode()
    storage.atomic_write(url, data)
    return len(data)
