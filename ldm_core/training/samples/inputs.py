"""The inputs of a run's own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen(eq=False)
class SampleInputs:
    """The inputs to sample at a run's end: `rows`, a mapping of conditioner inputs an image (None: the recipe's
    prompts, else held-out data); with `strict` one that a conditioner cuts off is an error."""

    rows: Sequence[Mapping[str, Any]] | None = None
    strict: bool = False
