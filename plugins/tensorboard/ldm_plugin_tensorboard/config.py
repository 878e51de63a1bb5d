"""The observer's configuration. Imports no torch."""

from __future__ import annotations

from typing import Any

import attrs


def _positive(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name}: expected more than 0, got {value}")


@attrs.frozen(kw_only=True)
class TensorBoardConfig:
    """The folder of the event files, and the pace of writing."""

    folder: str = attrs.field(
        default="",
        metadata={"help": "folder or URL for the event files; none: tensorboard/ in the run's folder", "place": True},
    )
    pictures: bool = attrs.field(default=True, metadata={"help": "write samples, reconstructions and curves as well"})
    flush_seconds: float = attrs.field(
        default=15.0, validator=_positive, metadata={"help": "seconds between writes to the local disk"}
    )
    upload_seconds: float = attrs.field(
        default=300.0,
        validator=_positive,
        metadata={"help": "seconds between uploads where the folder is a URL (and at the end of each stage)"},
    )
