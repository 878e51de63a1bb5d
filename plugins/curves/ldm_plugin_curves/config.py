"""The observer's configuration. Imports no torch."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class CurvesConfig:
    """No options."""
