"""The settings of the formats. Imports no torch."""

from __future__ import annotations

import attrs

from ldm_core.config.fields import field


@attrs.frozen(kw_only=True)
class CocoConfig:
    """`bbox` of ``annotations``, their `category_id` by ``categories`` in the order of the ids."""

    crowds: bool = field(False, "take regions of many objects (iscrowd) as objects, too")


@attrs.frozen(kw_only=True)
class OpenImagesConfig:
    """XMin, XMax, YMin, YMax and LabelName of each row; names from ``class-descriptions*.csv``."""

    groups: bool = field(False, "take boxes around a group of objects (IsGroupOf) as objects, too")
    depictions: bool = field(True, "take drawings and photographs of objects (IsDepiction) as objects")


@attrs.frozen(kw_only=True)
class VocConfig:
    """`bndbox` and `name` of each ``object``; names in alphabetical order, or that of a ``classes.json``."""

    difficult: bool = field(True, "take objects marked as difficult to see")
    first_pixel: int = field(
        1, "number of the first pixel of a row: 1 in Pascal VOC itself; many other tools count from 0", 0, maximum=1
    )


@attrs.frozen(kw_only=True)
class YoloConfig:
    """Lines of class, centre x, centre y, width and height, in shares of the picture."""

    names: str = field(
        "",
        "name of the list of classes beside the labels or above; by itself data.yaml, classes.txt and their like",
        place=False,
    )
