"""Settings of the ``tar`` reader. Imports attrs only."""

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
