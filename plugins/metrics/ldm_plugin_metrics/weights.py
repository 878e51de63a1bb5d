"""Files of weights named by the user. Imports no torch."""

from __future__ import annotations


def missing(url: str, wanted: str) -> str:
    """A line if `url` is empty, or a missing local file; `wanted` says the content."""
    from ldm_core import storage  # here: every `ldm-run plugins` reads the configs

    if not url:
        return f"path or URL is missing ({wanted})"
    if storage.local_path(url) is not None and not storage.exists(url):
        return f"no file {storage.shown(url)} ({wanted})"
    return ""
