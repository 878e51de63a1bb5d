"""The conditioner named by a user. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def conditioner_named(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The components named by a user as the conditioners; settings of one (``conditioners.text.tokenizer=PATH``) name
    none."""
    said = given.get("conditioners")
    if isinstance(said, Mapping):
        rows: Sequence[Any] = [said] if isinstance(said.get("use"), str) else list(said.values())
    else:
        rows = said if isinstance(said, list | tuple) else [said]
    uses = [row.get("use") if isinstance(row, Mapping) else row for row in rows]
    return tuple(use for use in uses if isinstance(use, str))
