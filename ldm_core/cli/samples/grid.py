"""Files of a grid of samples: a PNG for each image of each cell, and a labelled picture for each page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.cli.samples.output import SHEET, Output, file_name, rows_and_seeds
from ldm_core.data import images
from ldm_core.data.class_names import counts_of, spread
from ldm_core.sampling.arguments import require_arguments
from ldm_core.sampling.grids.axes import Axis, axes_of, in_words
from ldm_core.sampling.grids.cells import Cell, cells_of
from ldm_core.sampling.grids.grid import Grid, page_bytes, pages_of, title_of
from ldm_core.sampling.picture_folder import PictureFolder
from ldm_core.sampling.result import Progress

_KEPT = 50_000_000  # pixels of all cells that are held for the pages; more of them are held smaller


class GridOutput(Output):
    """The pictures of a grid's cells, in the cells' order; `pages` are the URLs of the labelled ones."""

    cells: Sequence[Cell] = ()
    axes: Sequence[Axis] = ()
    title: str = ""

    @classmethod
    def of_axes(
        cls, pipeline: Any, axes: Sequence[Axis], arguments: Mapping[str, Any], out: str | None, *, force: bool
    ) -> GridOutput:
        """Take a folder for the pictures of all cells, free and writable, before anything is sampled.

        ConfigError for unknown settings, values out of their range and impossible arguments.
        """
        require_arguments({key: arguments[key] for key in ("prompts", "images", "seed")})
        prompts, more = arguments["prompts"], {k: v for k, v in arguments.items() if k != "prompts"}
        axes = axes_of([_spread(axis, pipeline) for axis in axes], prompts)
        cells = cells_of(pipeline, axes, prompts, more)
        names: list[str] = []
        seeds: list[int] = []
        rows: list[dict[str, Any]] = []
        counts: list[int] = []
        for cell in cells:
            own, numbers = rows_and_seeds(cell.pipeline.recipe, cell.prompts, cell.arguments)
            names += [f"{file_name(len(names) + i, seed, '')[:-4]}-{_slug(cell)}.png" for i, seed in enumerate(numbers)]
            seeds += numbers
            rows += own
            counts.append(len(own))
        made = cls(PictureFolder.take(out, "samples", names, force=force), names, seeds, rows, pipeline.class_names)
        made.cells, made.axes, made._counts = cells, axes, counts
        made.title = title_of(prompts, arguments["inputs"], pipeline.class_names)
        return made

    _counts: Sequence[int] = ()

    def show(self, image: Any, row: Mapping[str, Any]) -> None:
        """Keep an image for its page, without its latents, and smaller if there are very many."""
        height, width = image.image.shape[1:]
        factor = math.ceil(math.sqrt(height * width * len(self._names) / _KEPT))
        if factor > 1:
            small = images.to_picture(image.image).reduce(factor)
            image = attrs.evolve(image, image=images.to_planes(small))
        self._shown.append((attrs.evolve(image, latents=None), row))

    def sheet(self) -> str:
        """Write the labelled pictures; the URL of the first, empty if there are no samples."""
        if not self._shown:
            return ""
        made, ready = iter([image for image, _ in self._shown]), []
        for count in self._counts:  # of an interrupted grid, the last cells stay empty
            ready.append([image for _, image in zip(range(count), made, strict=False)])
        pages = pages_of(Grid(tuple(self.axes), tuple(self.cells), tuple(ready), self.title))
        stem = SHEET.removesuffix(".png")
        several = [f"{stem}-{i + 1}.png" for i in range(len(pages))] if len(pages) > 1 else [SHEET]
        self.pages = [
            self.folder.write_beside(name, page_bytes(page, self.axes))
            for name, page in zip(several, pages, strict=True)
        ]
        return self.pages[0]

    pages: Sequence[str] = ()

    def progress(self, number: int) -> Progress:
        """The progress once the cell `number` is done, counted in cells."""
        return Progress(number + 1, len(self.cells), sum(self._counts[: number + 1]), len(self._names))

    def document(self) -> dict[str, Any]:
        """The grid for a program: its axes, and the files of each cell."""
        first, cells = 0, []
        for cell, count in zip(self.cells, self._counts, strict=True):
            files = [each["path"] for each in self.written[first : first + count]]
            page, row, column = cell.place
            cells.append({"page": page, "row": row, "column": column, "settings": dict(cell.values), "files": files})
            first += count
        axes = [{"setting": axis.name, "values": list(axis.values)} for axis in self.axes]
        return {"axes": axes, "pages": list(self.pages), "cells": cells}


def _spread(axis: Axis, pipeline: Any) -> Axis:
    """An axis of classes with each of them in the place of ``all``."""
    if axis.name != "class":
        return axis
    key, names = "class_label", tuple(pipeline.class_names.get("class_label", ()))
    found = spread(key, map(str, axis.values), names, counts_of(pipeline.recipe).get(key, 0))
    return Axis.of(axis.name, list(dict.fromkeys(found)))


def _slug(cell: Cell) -> str:
    """The cell's values as a part of a file's name."""
    text = "_".join(f"{name}={in_words(value)[:30]}" for name, value in cell.values.items())
    return re.sub(r"[^\w.=-]+", "-", text)[:100].strip("-_.")
