"""Settings of the ``tar`` reader. Imports attrs only."""

from __future__ import annotations

import attrs

from ldm_core.data.records.config import ReadingConfig


@attrs.frozen(kw_only=True)
class TarConfig(ReadingConfig):
    """WebDataset tars: files of one sample share the name up to the first dot. ``url`` is one shard, a
    pattern of several, or the folder that holds them."""

    keep_bytes: int = attrs.field(default=512 * 2**20, validator=attrs.validators.ge(0))
    """How much of remote shards is kept in memory, per process; beyond it members are fetched one by one."""
