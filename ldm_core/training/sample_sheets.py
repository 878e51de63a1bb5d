"""Sampling in a run: what to sample, on all processes, and the sheet that shows what each image was made from."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core import images
from ldm_core.contracts import DataInfo
from ldm_core.errors import Interrupted, LDMError, NotFiniteError
from ldm_core.pipeline import Pipeline, Sampled
from ldm_core.recipe import Recipe
from ldm_core.training.loader import Examples
from ldm_core.training.world import World

_CELL = 128  # pixels that an image is shown at, at least
_LOST = "not finite: "
_FAILED = "failed: "
HeldOut = Callable[[Sequence[str]], tuple[Any, bool]]


def wanted(
    recipe: Recipe, reads: Sequence[str], held_out: HeldOut, examples: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """One mapping of conditioner inputs an image: `examples`, else the recipe's prompts, else what held-out data has;
    empty where nothing is read."""
    if examples:
        return [dict(e) for e in examples]
    prompts = recipe.sample.prompts
    if prompts and set(reads) == {"caption"}:
        return [{"caption": p} for p in prompts]
    if not reads:
        return []
    dataset, _ = held_out(reads)
    rows = Examples(dataset, recipe.image_size, recipe.data, list(reads)).first(recipe.sample.images)
    captions = [{"caption": prompts[i % len(prompts)]} if prompts else {} for i in range(len(rows))]
    return [{**_indexed(row), **caption} for row, caption in zip(rows, captions, strict=True)]


def _indexed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of data, whose class is an index whatever the classes are called."""
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
    """The recipe's number of images (or one a row, where there are more rows), drawn by all processes together.

    Image i has the seed ``sample.seed + i`` and depends on nothing else, so that it is the same on any number of
    processes. All of them must call it, and each is handed all images; `done` is handed this process's, batch by batch.
    Raises :class:`Interrupted` on all where `told` stops one, torch.OutOfMemoryError on all where the memory of one
    does not suffice, :class:`NotFiniteError` on all, with the images that are finite, where some of one are not, and
    any other :class:`LDMError` of one on all. `finished` then holds the images of all that were finished, in order.
    """
    settings = pipeline.recipe.sample
    count = max(settings.images, len(rows))
    mine = range(world.rank, count, world.size)
    made: list[Sampled] = []
    failed = ""
    own: LDMError | None = None

    def take(batch: list[Sampled]) -> None:
        if done is not None:
            done(batch)
        made.extend(batch)

    try:
        if mine:
            pipeline.sample(
                examples=[rows[i % len(rows)] for i in mine] if rows else None,
                images=len(mine),
                seeds=[settings.seed + i for i in mine],
                strict=strict,
                callback=told,
                done=take,
            )
    except Interrupted:
        failed = "stopped"
    except torch.OutOfMemoryError:
        failed = "memory"
    except NotFiniteError as error:
        failed = f"{_LOST}{error}"
    except LDMError as error:
        failed, own = f"{_FAILED}{error}", error
    shares: list[tuple[str, list[Sampled]]] = world.gather((failed, made))
    reasons = sorted({reason for reason, _ in shares if reason})
    if not reasons:
        return [shares[i % world.size][1][i // world.size] for i in range(count)]
    whole = sorted((one for _, share in shares for one in share), key=lambda one: one.seed)
    if finished is not None:
        finished.extend(whole)
    raise _error_of(reasons, own, settings.batch, whole)


def _error_of(reasons: Sequence[str], own: LDMError | None, batch: int, whole: list[Sampled]) -> Exception:
    """The error of all processes, where those of some (`reasons`) ended early; `own`: this one's."""
    if "stopped" in reasons:
        return Interrupted("sampling was cancelled")
    if "memory" in reasons:
        return torch.OutOfMemoryError(f"sampling {batch} images at once; use a smaller sample.batch")
    if failed := [reason.removeprefix(_FAILED) for reason in reasons if reason.startswith(_FAILED)]:
        return own or LDMError(failed[0])
    lost = [reason.removeprefix(_LOST) for reason in reasons if reason.startswith(_LOST)]
    return NotFiniteError("\n".join(lost), images=whole)


def sheet(made: Sequence[Sampled], rows: Sequence[Mapping[str, Any]], info: DataInfo) -> NDArray[np.uint8]:
    """All images as one, uint8 (3, h, w): each with its prompt or classes below, and beside it the label map, boxes or
    picture that it was made from."""
    cells, captions = [], []
    for i, one in enumerate(made):
        row = rows[i % len(rows)] if rows else {}
        cells.append(_cell(one.image, row, info))
        captions.append(one.prompt or _words(info, row))
    return images.grid(cells, captions if any(captions) else None, cell=cells[0].shape[2] if cells else 0)


def _cell(image: NDArray[np.uint8], row: Mapping[str, Any], info: DataInfo) -> NDArray[np.uint8]:
    factor = max(1, -(-_CELL // image.shape[2]))
    shown = [_enlarged(images.to_channels(image, 3), factor)]
    size = shown[0].shape[1:]
    for key, value in row.items():
        kind = info.keys.get(key)
        if kind == "map":
            shown.append(_enlarged(_coloured(np.asarray(value)), factor))
        elif kind == "image" and np.asarray(value).dtype == np.uint8:
            given = images.to_channels(np.asarray(value), 3)
            shown.append(_enlarged(given, max(1, size[1] // given.shape[2])))
        elif kind == "boxes":
            shown.append(_drawn(np.asarray(value), row.get("box_labels"), (size[0], size[1]), info))
    if len(shown) == 1:
        return shown[0]
    height, gap = max(s.shape[1] for s in shown), 2
    out = np.full((3, height, sum(s.shape[2] + gap for s in shown) - gap), 255, dtype=np.uint8)
    left = 0
    for picture in reversed(shown):  # the condition first, then what came of it
        out[:, : picture.shape[1], left : left + picture.shape[2]] = picture
        left += picture.shape[2] + gap
    return out


def _enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    return picture.repeat(factor, axis=1).repeat(factor, axis=2)


def _colour(label: int) -> tuple[int, int, int]:
    """The same colour for the same class everywhere; neighbours in number are far apart in hue, 0 is grey, as it often
    is the background."""
    if label == 0:
        return (140, 140, 140)
    value, saturation = 0.9 - 0.175 * (label % 3), 0.55 + 0.4 * (label % 2)
    red, green, blue = colorsys.hsv_to_rgb(label * 0.61803 % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _coloured(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """A label map (H, W) -> uint8 (3, H, W)."""
    values, places = np.unique(labels.astype(np.int64), return_inverse=True)
    colours = np.array([_colour(int(v)) for v in values], dtype=np.uint8)
    return np.ascontiguousarray(colours[places.reshape(labels.shape)].transpose(2, 0, 1))


def _drawn(boxes: NDArray[Any], labels: Any, size: tuple[int, int], info: DataInfo) -> NDArray[np.uint8]:
    """Boxes (N, 4) as x, y, w, h in [0, 1] with the names of their classes -> uint8 (3, *size)."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (size[1], size[0]), (245, 245, 245))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    names = info.class_names.get("box_labels")
    numbers = [int(n) for n in np.asarray(labels).reshape(-1)] if labels is not None else [0] * len(boxes)
    for box, number in zip(boxes.reshape(-1, 4), numbers, strict=False):
        x, y, w, h = (float(v) for v in box)
        corner = (round(x * (size[1] - 1)), round(y * (size[0] - 1)))
        other = (round((x + w) * (size[1] - 1)), round((y + h) * (size[0] - 1)))
        draw.rectangle((*corner, *other), outline=_colour(number), width=2)
        text = names[number] if names and number < len(names) else str(number) if labels is not None else ""
        draw.text((corner[0] + 4, corner[1] + 2), text.encode("ascii", "replace").decode(), fill="black", font=font)
    return np.ascontiguousarray(np.asarray(canvas).transpose(2, 0, 1))


def _words(info: DataInfo, example: Mapping[str, Any]) -> str:
    """What a picture without a prompt was made from: its class, or the classes of its boxes."""
    for key in ("class_label", "box_labels"):
        if key in example:
            labels = np.atleast_1d(np.asarray(example[key])).tolist()
            known = info.class_names.get(key)
            return ", ".join(known[i] if known and i < len(known) else str(i) for i in labels)
    return ""
