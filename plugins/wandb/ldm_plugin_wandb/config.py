"""The observer's configuration. Imports no torch."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class WandbConfig:
    """The place of the log. There is no setting for the API key: it comes from WANDB_API_KEY alone, and no recipe holds
    it."""

    project: str = attrs.field(default="ldm-core", metadata={"help": "the project's name"})
    entity: str = attrs.field(default="", metadata={"help": "user or team; none: that of the API key"})
    name: str = attrs.field(default="", metadata={"help": "the run's name; none: that of its folder"})
    tags: tuple[str, ...] = attrs.field(default=(), metadata={"help": "tags of the run"})
    mode: Literal["auto", "online", "offline"] = attrs.field(
        default="auto",
        metadata={"help": "auto: online where WANDB_API_KEY is set, else offline (upload later: wandb sync)"},
    )
    folder: str = attrs.field(
        default="",
        metadata={"help": "local folder for its files; none: wandb/ in the run's folder", "place": True},
    )
    pictures: bool = attrs.field(default=True, metadata={"help": "log samples, reconstructions and curves as well"})
