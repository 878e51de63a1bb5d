"""Grids of samples from Python: ``pipeline.grid("a red circle", axes={"guidance": [1, 3, 7], "steps": [10, 25]})``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import attrs

from ldm_core.contracts.values import EMPTY
from ldm_core.data.images import png_bytes, to_picture
from ldm_core.sampling.arguments import SampleArguments, require_names, spelled_out
from ldm_core.sampling.grids.axes import Axis, axes_of
from ldm_core.sampling.grids.cells import Cell, cells_of
from ldm_core.sampling.grids.picture import Page, Picture, flowing
from ldm_core.sampling.made_from import caption
from ldm_core.sampling.result import Sampled

_FACTS = ("seed", "preset", "steps", "sampler", "time_grid", "guidance", "strength", "negative")
"""Entries of a picture's metadata beneath the title, but for those of the axes."""


@attrs.frozen(eq=False, repr=False)
class Grid:
    """Samples over the values of one, two or three settings: `cells` page by page, row by row.

    Each entry of `images` are one cell's, and `cells[i].values` its settings by the axes' names.
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    images: tuple[Sequence[Sampled], ...]
    title: str = ""

    def __repr__(self) -> str:
        return f"Grid({' x '.join(f'{len(axis.values)} {axis.name}' for axis in self.axes)})"

    def pages(self) -> list[Any]:
        """The labelled pictures as ``PIL.Image``: one, or one for each value of the third axis."""
        return [to_picture(page.drawn()) for page in pages_of(self)]

    def picture(self) -> Any:
        """The first page."""
        return self.pages()[0]


def pages_of(grid: Grid) -> list[Page]:
    """The pages of a grid, ready to be drawn."""
    columns, rows = grid.axes[0], grid.axes[1] if len(grid.axes) > 1 else None
    third = grid.axes[2].labels() if len(grid.axes) > 2 else [""]
    wide, high = len(columns.values), len(rows.values) if rows else 1
    facts = _facts(grid)
    found = []
    for number, page in enumerate(third):
        first = number * wide * high
        blocks: list[list[list[Picture]]] = [
            [[one.image for one in grid.images[first + row * wide + column]] for column in range(wide)]
            for row in range(high)
        ]
        said = ", ".join(filter(None, (page, facts)))
        if rows is None:
            found.append(Page(flowing(blocks[0]), columns.labels(), [], grid.title, said))
        else:
            found.append(Page(blocks, columns.labels(), rows.labels(), grid.title, said))
    return found


def page_bytes(page: Page, axes: Sequence[Axis]) -> bytes:
    """A page as a PNG with its axes in the metadata."""
    about = {f"axis_{i}": ", ".join(axis.labels()) for i, axis in enumerate(axes)}
    return png_bytes(page.drawn(), {**about, "software": "ldm-core"})


def title_of(prompts: str | Sequence[str] | None, inputs: Any, class_names: Mapping[str, Sequence[str]]) -> str:
    """The prompt of all cells, or else the name of their class; "" if neither is one for all."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts or ())
    if texts:
        return texts[0] if len(texts) == 1 else ""
    rows = [inputs] if isinstance(inputs, Mapping) else list(inputs or ())
    return (str(rows[0].get("caption") or "") or caption(rows[0], class_names)) if len(rows) == 1 else ""


def _facts(grid: Grid) -> str:
    """The settings shared by all cells, in a line."""
    taken = {axis.name.partition(".")[0] for axis in grid.axes}
    taken |= {"steps", "sampler", "time_grid", "guidance"} if "preset" in taken else set()
    first = next((one for images in grid.images for one in images), None)
    about = first.metadata if first is not None else {}
    count = max((len(images) for images in grid.images), default=1)
    found = []
    for name in _FACTS:
        if name in about and name not in taken:
            several = name == "seed" and count > 1
            found.append(f"{name} {about[name]}" + (f" and {count - 1} more" if several else ""))
    return ", ".join(found)


class GridMethods:
    """The grid of a pipeline."""

    class_names: Mapping[str, Sequence[str]] = EMPTY

    @spelled_out
    def grid(
        self: Any,
        prompts: str | Sequence[str] | None = None,
        *,
        axes: Mapping[str, Sequence[Any]],
        **arguments: Unpack[SampleArguments],
    ) -> Grid:
        """Sample over the values of one, two or three settings: columns, rows, pages; several prompts are one of them.

        ``pipeline.grid("a red circle", axes={"guidance": [1, 3, 7], "steps": [10, 25, 50]}).picture()``. An axis is
        ``prompt``, ``negative``, ``class``, ``seed``, ``steps``, ``guidance``, ``strength``, ``preset``, or any setting
        of sampling by its path, such as ``sampler`` or ``time_grid``. Other arguments are those of :meth:`sample`. Each
        cell has the same seeds, and is bit for bit that of :meth:`sample` with its settings. All cells are checked
        before the first is drawn: ConfigError, with the cell named. `callback` sees one cell's progress at a time.
        """
        require_names("grid", arguments)
        found = axes_of(axes, prompts)
        cells = cells_of(self, found, prompts, arguments)
        begun = [cell.begun() for cell in cells]
        made = tuple([one for batch in batches for one in batch] for batches in begun)
        return Grid(found, tuple(cells), made, title_of(prompts, arguments.get("inputs"), self.class_names))
