"""The observer's configuration. Imports no torch."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class ReportConfig:
    """The report's place."""

    file: str = attrs.field(
        default="",
        metadata={"help": "path or URL of the report; none: report.html in the run's folder", "place": True},
    )
