"""Settings of the ``tar`` and ``folder`` readers. Imports attrs only."""

from __future__ import annotations

import attrs

from ldm_core.config.fields import field
from ldm_core.data.records.config import ReadingConfig


@attrs.frozen(kw_only=True)
class TarConfig(ReadingConfig):
    """WebDataset tars: files of one sample share the name up to the first dot. ``url`` is one shard, a
    pattern of several, or the folder that holds them."""

    keep_bytes: int = field(
        512 * 2**20,
        "bytes of remote shards kept in memory, a process; beyond, members are fetched singly",
        minimum=0,
    )


@attrs.frozen(kw_only=True)
class FolderConfig(ReadingConfig):
    """Pictures in a folder and its sub-folders. Annotations lie beside a picture under its name (``.txt``, ``.cls``,
    ``.json``, ``.seg.png``, ``.mask.png``, ``.embedding.npy``), in ``metadata.jsonl`` or ``metadata.csv`` (column
    ``file_name``), or are the sub-folder's name, as the class."""
