"""The settings of the IDX reader, and the names of its files. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import DatasetConfig

NAMED = re.compile(
    r"(?P<set>(?:.*[-_.])?)(?P<split>train|t10k|test|valid|validation|val)[-_.](?P<what>images|labels)"
    r"[-_.]idx[13][-_.]ubyte(?:\.gz)?",
    re.IGNORECASE,
)
"""The name of a file: ``train-images-idx3-ubyte.gz``, ``emnist-letters-test-labels-idx1-ubyte``."""


@attrs.frozen(kw_only=True)
class IdxConfig(DatasetConfig):
    """The pictures of an IDX file, with the labels beside it as `class_label`; names from a ``classes.json`` there."""

    url: str = attrs.field(
        metadata={"help": "path or fsspec URL of the folder, or of one of its files of images", "place": True}
    )
    split: str = field("train", "train, or val (test): the files called t10k, test or val")
    multiple: int = field(
        8,
        "pictures get an even border up to a multiple of so many pixels (28 to 32), so that a first stage can halve "
        "them; 1 = none",
        minimum=1,
        maximum=1024,
    )
    border: int = field(0, "grey level of that border; 0: black, as the background of these pictures", 0, maximum=255)
    transpose: bool = field(False, "swap rows and columns, as EMNIST's pictures are stored")

    @staticmethod
    def recognises(names: Sequence[str]) -> bool:
        """True of the names of files with one of IDX images among them."""
        return any((match := NAMED.fullmatch(name)) and match["what"].lower() == "images" for name in names)
