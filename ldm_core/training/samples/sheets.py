"""Sampling in a run: the inputs, the work of all processes, and the sheet of images beside their inputs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.contracts import SIZE_KEYS, DataInfo
from ldm_core.data import images
from ldm_core.data.inputs.masks import holes
from ldm_core.errors import Interrupted, LDMError, NotFiniteError, PromptWarning, clean
from ldm_core.model.degraded import Degraded, for_conditioners
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.made_from import caption
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Sampled
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import Examples
from ldm_core.training.samples import layouts

_CELL = 128  # the least side in pixels of a shown image
_LAYOUT = 256  # the same beside boxes: their tags take room
_LOST = "not finite: "
_FAILED = "failed: "
HeldOut = Callable[[Sequence[str]], tuple[Any, str]]
"""Keys -> data with them, and why it is not held out, or ""."""


def wanted(
    recipe: Recipe,
    reads: Sequence[str],
    held_out: HeldOut,
    examples: Sequence[Mapping[str, Any]] | None,
    degraded: Degraded | None = None,
) -> list[dict[str, Any]]:
    """The conditioner inputs, a mapping an image: `examples`, else the recipe's prompts, else held-out data; empty if
    nothing is read. `degraded` makes lacking ones."""
    if examples:
        return [dict(e) for e in examples]
    reads = [key for key in reads if key not in SIZE_KEYS]  # of what is sampled, not of the example beside it
    prompts = recipe.sample.prompts
    if prompts and set(reads) == {"caption"}:
        return [{"caption": p} for p in prompts]
    if not reads:
        return []
    dataset, _ = held_out(reads)
    settings = attrs.evolve(recipe.data, balance="")
    made = Examples(dataset, recipe.image_size, settings, list(reads), degraded).first(recipe.sample.images)
    rows = list(map(for_conditioners, made))
    captions = [{"caption": prompts[i % len(prompts)]} if prompts else {} for i in range(len(rows))]
    return [{**indexed(row), **caption} for row, caption in zip(rows, captions, strict=True)]


def indexed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of data with its class as an index, whatever the classes' names."""
    label = row.get("class_label")
    return {**row, "class_label": np.int64(label)} if isinstance(label, int) else dict(row)


def sample(
    pipeline: Pipeline,
    rows: Sequence[Mapping[str, Any]],
    world: World,
    *,
    strict: bool = False,
    told: Callable[[Any], bool] | None = None,
    done: Callable[[list[Sampled]], None] | None = None,
    finished: list[Sampled] | None = None,
) -> list[Sampled]:
    """The recipe's number of images (or one a row, if there are more rows), drawn by all processes together.

    Image i has the seed ``sample.seed + i`` and depends on nothing else, so it is the same on any number of processes.
    All of them must call it, and each is handed all images; `done` is handed this process's, batch by batch. If one
    process fails, all raise: :class:`Interrupted` if `told` stops it, torch.OutOfMemoryError if its memory does not
    suffice, :class:`NotFiniteError`, with the finite images, if some of its images are not, and any other
    :class:`LDMError`. `finished` then holds the finished images of all, in order.
    """
    settings = pipeline.recipe.sample
    count = max(settings.images, len(rows))
    made: list[Sampled] = []

    def take(batch: list[Sampled]) -> None:
        if done is not None:
            done(batch)
        made.extend(batch)

    failed, own = "", None
    try:
        if mine := range(world.rank, count, world.size):
            with _held_to(strict):
                batches = pipeline.stream(
                    inputs=[rows[i % len(rows)] for i in mine] if rows else None,
                    images=len(mine),
                    seed=[settings.seed + i for i in mine],
                    callback=told,
                )
            for batch in batches:
                take(batch)
    except (LDMError, torch.OutOfMemoryError) as error:
        failed, own = _reason(error), error
    shares: list[tuple[str, list[Sampled]]] = world.gather((failed, made))
    reasons = sorted({reason for reason, _ in shares if reason})
    if not reasons:
        return [shares[i % world.size][1][i // world.size] for i in range(count)]
    whole = sorted((one for _, share in shares for one in share), key=lambda one: one.seed)
    if finished is not None:
        finished.extend(whole)
    raise _error_of(reasons, own, settings.batch, whole)


@contextlib.contextmanager
def _held_to(strict: bool) -> Iterator[None]:
    """Make errors of warnings about inputs, if `strict`."""
    with warnings.catch_warnings() if strict else contextlib.nullcontext():
        if strict:
            warnings.simplefilter("error", PromptWarning)
        yield


def _reason(error: Exception) -> str:
    """The error as text for the other processes."""
    if isinstance(error, Interrupted):
        return "stopped"
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    return f"{_LOST if isinstance(error, NotFiniteError) else _FAILED}{error}"


def _error_of(reasons: Sequence[str], own: Exception | None, batch: int, whole: list[Sampled]) -> Exception:
    """The error of all processes if some ended early, for `reasons`; `own`: this one's."""
    if "stopped" in reasons:
        return Interrupted("sampling was cancelled")
    if "memory" in reasons:
        return torch.OutOfMemoryError(f"sampling {batch} images at once; use a smaller sample.batch")
    if failed := [reason.removeprefix(_FAILED) for reason in reasons if reason.startswith(_FAILED)]:
        return own if own is not None and _reason(own).startswith(_FAILED) else LDMError(failed[0])
    lost = [reason.removeprefix(_LOST) for reason in reasons if reason.startswith(_LOST)]
    return NotFiniteError("\n".join(lost), images=whole)


def sheet(made: Sequence[Sampled], rows: Sequence[Mapping[str, Any]], info: DataInfo) -> NDArray[np.uint8]:
    """All images as one, uint8 (3, h, w): each with its prompt or classes below, and its label map, boxes or input
    picture beside it."""
    cells, captions = [], []
    for i, one in enumerate(made):
        row = rows[i % len(rows)] if rows else {}
        cells.append(_cell(one.image, row, info))
        captions.append(clean(one.prompt, 300) or caption(row, info.class_names))
    shapes = [
        [size[2] / size[1] for size in (cell.shape, one.image.shape)] for cell, one in zip(cells, made, strict=True)
    ]
    gap = 12 if any(whole > 2.5 * single for whole, single in shapes) else 4  # cells of three pictures stand apart
    below, cell = captions if any(captions) else None, cells[0].shape[2] if cells else 0
    return images.grid(cells, below, _columns(captions), cell=cell, gap=gap)


def _columns(captions: Sequence[str]) -> int | None:
    """The number of columns for captions in turn, as of classes and prompts: equal ones below each other. None for
    others, and for a turn too long for one sheet."""
    count = len(captions)
    turn = next((n for n in range(1, count // 2 + 1) if captions[n:] == captions[:-n]), 1)
    usual = 1.4 * count**0.5
    return turn * max(1, round(usual / turn)) if 1 < turn <= 2 * usual else None


def boxed(made: Sequence[Sampled], rows: Sequence[Mapping[str, Any]], info: DataInfo) -> NDArray[np.uint8]:
    """All images as one, uint8 (3, h, w), each with its boxes drawn over it, and their classes' names."""
    cells = []
    for i, one in enumerate(made):
        row = rows[i % len(rows)] if rows else {}
        cell = _enlarged(images.to_channels(one.image, 3), max(1, -(-_LAYOUT // one.image.shape[2])))
        for key, value in row.items():
            if info.keys.get(key) == "boxes":
                names = info.class_names.get("box_labels", ())
                size = (cell.shape[1], cell.shape[2])
                cell = layouts.drawn(np.asarray(value), row.get("box_labels"), size, names, over=cell)
        cells.append(cell)
    return images.grid(cells)


def _cell(image: NDArray[np.uint8], row: Mapping[str, Any], info: DataInfo) -> NDArray[np.uint8]:
    least = _LAYOUT if any(info.keys.get(key) == "boxes" for key in row) else _CELL
    factor = max(1, -(-least // image.shape[2]))
    shown = [_enlarged(images.to_channels(image, 3), factor)]
    size = shown[0].shape[1:]
    for key, value in row.items():
        kind = info.keys.get(key)
        if kind == "map":
            drawn = _black_and_white if key == "mask" else _coloured
            shown.append(_framed(_enlarged(drawn(np.asarray(value)), factor)))
        elif kind == "image" and np.asarray(value).dtype == np.uint8:
            given = images.to_channels(np.asarray(value), 3)
            shown.append(_enlarged(given, max(1, size[1] // given.shape[2])))
        elif kind == "boxes":
            names = info.class_names.get("box_labels", ())
            shown.append(layouts.drawn(np.asarray(value), row.get("box_labels"), (size[0], size[1]), names))
    if len(shown) == 1:
        return shown[0]
    height, gap = max(s.shape[1] for s in shown), 2
    out = np.full((3, height, sum(s.shape[2] + gap for s in shown) - gap), 255, dtype=np.uint8)
    left = 0
    for picture in (*shown[1:], shown[0]):  # the conditions first, then the image
        out[:, : picture.shape[1], left : left + picture.shape[2]] = picture
        left += picture.shape[2] + gap
    return out


def _enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    return picture.repeat(factor, axis=1).repeat(factor, axis=2)


def _framed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with a line of grey for its edge, as a sheet is white and holes are."""
    out = np.full_like(picture, 160)
    out[:, 1:-1, 1:-1] = picture[:, 1:-1, 1:-1]
    return out


def _black_and_white(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask (H, W) -> uint8 (3, H, W), white in holes."""
    found = holes(mask[0] if mask.ndim == 3 else mask)
    return np.repeat(np.where(found, 255, 0).astype(np.uint8)[None], 3, axis=0)


def _coloured(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """A label map (H, W) -> uint8 (3, H, W)."""
    values, places = np.unique(labels.astype(np.int64), return_inverse=True)
    colours = np.array([layouts.colour(int(v)) for v in values], dtype=np.uint8)
    return np.ascontiguousarray(colours[places.reshape(labels.shape)].transpose(2, 0, 1))
