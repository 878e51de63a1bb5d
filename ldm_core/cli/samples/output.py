"""Files of ``ldm-run sample``: a PNG for each image as soon as its batch is done, and one sheet of them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldm_core.cli.output import say
from ldm_core.contracts.values import DataInfo
from ldm_core.data import images
from ldm_core.data.geometry import GEOMETRIES, fit
from ldm_core.data.inputs.forms import geometries, taken_sizes
from ldm_core.errors import ConfigError, Interrupted, LDMError
from ldm_core.sampling.arguments import require_arguments
from ldm_core.sampling.inputs import count_of, rows_of, seeds_of
from ldm_core.sampling.picture_folder import PictureFolder

SHEET, BOXES = "grid.png", "grid-boxes.png"
_ROOM = 50_000_000  # pixels of a sheet; more pictures than that are in the folder alone


class Output:
    """The pictures of one sampling, from the first to their sheet.

    `names`: of their files; `seeds` and `rows`: the origin of each.
    """

    def __init__(
        self,
        folder: PictureFolder,
        names: Sequence[str],
        seeds: Sequence[int],
        rows: Sequence[Mapping[str, Any]],
        class_names: Mapping[str, Sequence[str]],
        keys: Mapping[str, str] = GEOMETRIES,
    ) -> None:
        self.folder, self._names, self._seeds, self._rows = folder, names, seeds, rows
        self._at = 0  # the next image; those that are not finite never come
        self._info = DataInfo(keys=keys, class_names={k: tuple(v) for k, v in class_names.items()})
        self.written: list[dict[str, Any]] = []
        self._shown: list[tuple[Any, Mapping[str, Any]]] = []
        self._room = _ROOM

    @classmethod
    def of(cls, pipeline: Any, arguments: Mapping[str, Any], out: str | None, *, force: bool) -> Output:
        """Take a folder for the pictures of a sampling, free and writable, before anything is sampled."""
        require_arguments({key: arguments[key] for key in ("prompts", "images", "seed")})
        rows, seeds = rows_and_seeds(pipeline.recipe, arguments["prompts"], arguments)
        captions = [str(row.get("caption", "")) for row in rows]
        names = [file_name(i, *each) for i, each in enumerate(zip(seeds, captions, strict=True))]
        folder = PictureFolder.take(out, "samples", names, force=force)
        shown = rows if arguments.get("whole") else [_as_taken(row, pipeline.recipe) for row in rows]
        return cls(folder, names, seeds, shown, pipeline.class_names, geometries(pipeline.recipe))

    def take(self, batch: Sequence[Any]) -> None:
        """Write the images of a batch."""
        for image in batch:
            while self._seeds[self._at] != image.seed:
                self._at += 1
            row = self._rows[self._at]
            url = self.folder.write(self._names[self._at], images.png_bytes(image.image, image.metadata))
            self._at += 1
            about = {k: v for k, v in image.metadata.items() if k in row and k != "caption"}
            self.written.append({"path": url, "prompt": image.prompt, "seed": image.seed, **about})
            self.show(image, row)

    def show(self, image: Any, row: Mapping[str, Any]) -> None:
        """Keep an image for the sheet, if there is room."""
        height, width = image.image.shape[1:]
        self._room -= 3 * max(128, width) * (max(128, height) + 100)
        if self._room > 0 or not self._shown:
            self._shown.append((image, row))

    @property
    def files(self) -> list[str]:
        """The URLs of the written pictures."""
        return [each["path"] for each in self.written]

    def sheet(self) -> str:
        """Write the sheet of the pictures; its URL, empty if there are none."""
        from ldm_core.training.samples import sheets

        if not self._shown:
            return ""
        rows = [row for _, row in self._shown]
        sheet = sheets.sheet([image for image, _ in self._shown], rows, self._info)
        return self.folder.write_beside(SHEET, images.png_bytes(sheet, {"software": "ldm-core"}))

    def boxes(self) -> str:
        """Write the sheet of the pictures with their boxes drawn over them; its URL, empty if none has boxes."""
        from ldm_core.training.samples import sheets

        if not any("boxes" in row for _, row in self._shown):
            return ""
        sheet = sheets.boxed([image for image, _ in self._shown], [row for _, row in self._shown], self._info)
        return self.folder.write_beside(BOXES, images.png_bytes(sheet, {"software": "ldm-core"}))

    def left_out(self) -> str:
        """Write a line on the pictures without room on the sheet; empty if it shows all."""
        shown = len(self._shown)
        return f"the sheet shows the first {shown} of them" if shown < len(self.written) else ""

    @contextlib.contextmanager
    def kept(self, batch: int) -> Iterator[None]:
        """Keep the finished pictures, with a sheet, whatever ends the block, and print their number.

        Raises :class:`Interrupted` for Ctrl-C, :class:`ConfigError` if the memory does not suffice for `batch` images
        at once.
        """
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(LDMError):
                self.sheet()
            self.folder.leave()
            count = len(self.written)
            told = f"{count} of {len(self._names)} pictures are finished and lie in {self.folder.url}"
            if isinstance(error, KeyboardInterrupt):
                told = told if count else "no picture was finished"
                raise Interrupted(f"{told}; the same command draws all of them anew, into another --out") from None
            if (short := _out_of_memory(error)) is not None:
                more = f" ({told})" if count else ""
                raise ConfigError(
                    f"memory does not suffice for {batch} images at once{short}; set --batch{more}"
                ) from None
            if count:
                say(told, err=True)
            raise


def rows_and_seeds(recipe: Any, prompts: Any, arguments: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """The inputs and the seed of each image, as the pipeline takes them from the arguments."""
    seed = arguments["seed"]
    rows = rows_of(recipe, prompts, arguments.get("inputs"), count_of(arguments["images"], seed))
    return rows, seeds_of(recipe, rows, seed)


def _as_taken(row: Mapping[str, Any], recipe: Any) -> dict[str, Any]:
    """A row as it is shown: pictures at the size taken by the model."""
    out = dict(row)
    for key, size in taken_sizes(recipe).items():
        if key in out and geometries(recipe).get(key) == "image":
            out[key] = fit({key: out[key]}, {key: "image"}, size)[key]
    return out


def _out_of_memory(error: BaseException) -> str | None:
    """Quote an error from a lack of memory, in brackets; None for another error."""
    kind, text = type(error).__name__, str(error)
    if kind in ("OutOfMemoryError", "MemoryError") or (kind == "RuntimeError" and "not enough memory" in text):
        first = text.partition("\n")[0][:120]
        return f" ({first})" if first else ""
    return None


def file_name(index: int, seed: int, prompt: str) -> str:
    """Name a picture ``0003-seed7-a-red-circle.png``; the whole prompt is in its metadata."""
    encoding = sys.getfilesystemencoding()  # of an old locale: what it lacks is left out
    text = prompt.lower().encode(encoding, "ignore").decode(encoding)
    words = re.sub(r"[^\w]+", "-", text).strip("-_")[:40].rstrip("-_")
    return "-".join(filter(None, (f"{index:04d}", f"seed{seed}", words))) + ".png"
