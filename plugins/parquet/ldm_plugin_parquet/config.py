"""The settings of the Parquet reader. Imports no torch and no pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import DatasetConfig

SUFFIX = ".parquet"


def _share(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}: expected a share, 0 or more and below 1, got {value}")


@attrs.frozen(kw_only=True)
class ParquetConfig(DatasetConfig):
    """Rows of Parquet files: a picture's bytes, with text, class, boxes and other columns."""

    url: str = attrs.field(
        metadata={
            "help": "path or fsspec URL of a file, a pattern of several, or a folder; {00000..00031}, * are expanded",
            "place": True,
        }
    )
    split: str = field(
        "train",
        "split that is read, by a name in files (train-00000-of-00002.parquet) or folders; without names all is train",
    )
    read: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata={"help": "key -> its column (caption: title, boxes: objects.bbox; dots go deeper)"},
    )
    classes: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata={
            "help": "key -> the file beside the data that lists its classes (class_label: types.json), or their "
            'number (class_label: "10"); names in the files themselves are found'
        },
    )
    box_format: Literal["xyxy", "xywh"] = field("xyxy", "numbers of a box: two corners, or a corner and the size")
    box_units: Literal["fraction", "pixel"] = field("fraction", "unit of those numbers")
    white_level: float = field(0.0, "level of white in grey pictures of more than 8 bits; 0: the format's", minimum=0)
    missing: Literal["error", "skip"] = field("error", "rows that lack a key which others have: stop, or leave out")
    max_bad: float = attrs.field(
        default=0.01,
        validator=_share,
        metadata={"help": "share of rows that may be undecodable (at least one, unless 0) before reading stops"},
    )
    keep_bytes: int = field(
        512 * 2**20,
        "bytes of row groups kept in memory, a process; beyond, they are read again",
        minimum=0,
    )

    @staticmethod
    def recognises(names: Sequence[str]) -> bool:
        """True of the names of files with a Parquet file among them."""
        return any(name.lower().endswith(SUFFIX) for name in names)
