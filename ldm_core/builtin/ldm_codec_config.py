"""Options of the codec of this package's own files: none. Imports no torch."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class LdmCodecConfig:
    """A run's folder or file says everything by itself."""
