"""Settings of the ``folder`` reader. Imports attrs only."""

from __future__ import annotations

import attrs

from ldm_core.data.records.config import ReadingConfig


@attrs.frozen(kw_only=True)
class FolderConfig(ReadingConfig):
    """Pictures in a folder and its sub-folders. Annotations lie beside a picture under its name (``.txt``, ``.cls``,
    ``.json``, ``.seg.png``, ``.mask.png``, ``.embedding.npy``), in ``metadata.jsonl`` or ``metadata.csv`` (column
    ``file_name``), or are the sub-folder's name, as the class."""
