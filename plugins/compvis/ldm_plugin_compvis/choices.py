"""What a user says of conditioners: which one a file holds, and its settings. Imports no torch.

Given by its bare name, or as a list or mapping of members, a conditioner keeps what the file's shapes say of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core.codec import overlay


def conditioner_named(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The components that a user named as the conditioners; settings of one (``conditioners.text.tokenizer=PATH``)
    name none."""
    said = given.get("conditioners")
    if isinstance(said, Mapping):
        rows: Sequence[Any] = [said] if isinstance(said.get("use"), str) else list(said.values())
    else:
        rows = said if isinstance(said, list | tuple) else [said]
    uses = [row.get("use") if isinstance(row, Mapping) else row for row in rows]
    return tuple(use for use in uses if isinstance(use, str))


def with_shapes(given: Mapping[str, Any], rows: Sequence[Any]) -> Mapping[str, Any]:
    """`given` whose conditioners, where they are named one by one and not by settings alone, have what `rows`, those
    that the file shows, say of the same components."""
    said = given.get("conditioners")
    if isinstance(said, Mapping) and isinstance(said.get("use"), str):
        said = [said]
    if isinstance(said, str):
        said = [said]
    if not isinstance(said, list | tuple):
        return given
    return {**given, "conditioners": [_completed(row, rows) for row in said]}


def _completed(row: Any, rows: Sequence[Any]) -> Any:
    own = {"use": row} if isinstance(row, str) else row
    if not isinstance(own, Mapping):
        return row
    like = next((r for r in rows if isinstance(r, Mapping) and r.get("use") == own.get("use")), None)
    return overlay(like, own) if like is not None else row
