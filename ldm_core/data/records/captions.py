"""Sources of a data set's captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.data.records.sources import CAPTION_FIELDS, Source

if TYPE_CHECKING:
    from ldm_core.data.records.store import Sample


@attrs.define
class CaptionSources:
    """The sources and how many samples have their caption there. `several`: some have more than one. `rows_first`: a
    row of metadata comes before a file beside the picture."""

    counts: dict[Source, int] = attrs.field(factory=dict)
    several: bool = False
    rows_first: bool = False

    def text(self) -> str:
        """A line on them; empty where all are the files beside the pictures."""
        if len(self.counts) < 2 and not any(source.field for source in self.counts):
            return ""
        told = ", ".join(f"{source.text()} ({count})" for source, count in self.counts.items())
        return f"captions from {told}" + (", one of several drawn in each epoch" if self.several else "")


def captions_of(
    samples: Sequence[Sample], fields: Sequence[Mapping[str, Any] | None], sources: Sequence[Source]
) -> CaptionSources:
    """The captions' sources, from `fields` of each sample; `sources` in their order."""
    found = CaptionSources()
    files = [s.extension for s in sources if s.extension]
    for sample, known in zip(samples, fields, strict=True) if sources else ():
        source = next((s for s in sources if s.has(sample, known)), None)
        if source is None:
            continue
        found.counts[source] = found.counts.get(source, 0) + 1
        if source.field:
            value = source.look_up((sample.row or {}) if source.row else known or {})
            found.several |= isinstance(value, list) and source.field[-1] in CAPTION_FIELDS
            found.rows_first |= source.row and any(each in sample.parts for each in files)
    return found
