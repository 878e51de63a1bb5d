"""One batch of images of several jobs, sampled in a thread of its own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ldm_core.data.images import png_bytes
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models.request import REQUEST, Asked
from ldm_plugin_serve.models.shelf import Shelf
from ldm_plugin_serve.work.job import Job, Made

if TYPE_CHECKING:
    from ldm_core.sampling.result import Progress, Sampled

_MOST_CARRIED = 1 << 16  # characters of a request in the metadata
Tell = Callable[[int, int, "dict[str, list[tuple[int, bytes]]] | None"], None]
"""Told of step, steps, and previews: job -> (image, PNG); called in the sampling thread."""


@attrs.frozen(eq=False)
class Part:
    """Images `first` to `last`, exclusive, of a job."""

    job: Job
    first: int
    last: int


@attrs.frozen(eq=False)
class Batch:
    """Parts of jobs of one key. `stopped` is asked at each step; `watched` tells jobs with watched previews.

    It is sampled with `least` images at least: the last one is repeated, and the repeats are thrown away.
    """

    parts: Sequence[Part]
    least: int
    stopped: Callable[[], bool]
    watched: Callable[[Job], bool]
    tell: Tell
    pause: float

    @property
    def asked(self) -> Asked:
        """The request of its first image; all have its settings."""
        return self.parts[0].job.asked

    @property
    def places(self) -> list[tuple[Job, int]]:
        """Job and number of each image."""
        return [(part.job, i) for part in self.parts for i in range(part.first, part.last)]

    def run(self, shelf: Shelf) -> list[Sampled]:
        """Sample it; raises as ``Pipeline.sample`` does."""
        asked, places = self.asked, self.places
        count = len(places)
        places += places[-1:] * (self.least - count)
        pipeline = shelf.variant(asked.entry, asked.size, asked.preset, asked.changes)
        more: dict[str, Any] = {}
        if asked.row:
            more["inputs"] = [job.asked.row for job, _ in places]
        if asked.negative is not None:
            more["negative"] = [job.asked.negative for job, _ in places]
        if asked.whole is not None:
            more["whole"] = True
        if asked.start is not None:
            from ldm_core.sampling.image_to_image import Start

            more["start"] = Start.image([job.asked.start for job, _ in places], strength=asked.strength)
        seeds = [job.asked.seeds[i] for job, i in places]
        made = pipeline.sample(
            images=len(seeds), seed=seeds, steps=asked.steps, guidance=asked.guidance, batch=len(seeds),
            callback=self._watch(), **more,
        )  # fmt: skip
        return made[:count]

    def pictures(self, made: Sequence[Sampled]) -> list[Made]:
        """The files of its sampled images, with their metadata; not for the sampling thread."""
        return [_finished(one, job.asked, i) for one, (job, i) in zip(made, self.places, strict=True)]

    def _watch(self) -> Callable[[Progress], bool]:
        last = [0.0]

        def watch(progress: Progress) -> bool:
            if self.stopped():
                return False
            previews, now = None, time.monotonic()
            if now - last[0] >= self.pause and any(self.watched(part.job) for part in self.parts):
                previews = self._previews(progress.pictures())
                last[0] = time.monotonic()
            self.tell(progress.step, progress.steps, previews)
            return True

        return watch

    def _previews(self, pictures: np.ndarray) -> dict[str, list[tuple[int, bytes]]]:
        found: dict[str, list[tuple[int, bytes]]] = {}
        for pixels, (job, i) in zip(pictures, self.places, strict=False):  # without the repeats
            if self.watched(job):
                found.setdefault(job.id, []).append((i, png_bytes(pixels)))
        return found


def room_of(asked: Asked, limits: Limits) -> int:
    """Images of a batch: fewer of larger ones."""
    recipe = asked.entry.recipe
    own = recipe.image_size[0] * recipe.image_size[1] if recipe else 1
    size = asked.whole or asked.size
    return max(1, min(limits.batch, limits.batch * own // (size[0] * size[1])))


def least_of(asked: Asked, limits: Limits) -> int:
    """Images of a batch, at least, for sums to be rounded as a larger one's; windows of a whole picture are many."""
    return 1 if asked.whole else min(room_of(asked, limits), -(-limits.rows // asked.rows))


def _finished(one: Sampled, asked: Asked, number: int) -> Made:
    settings = {**asked.said, "seed": asked.seeds[number], "images": 1}
    said: dict[str, Any] = {"model": asked.entry.id, "inputs": dict(asked.inputs), "settings": settings}
    if asked.preset:
        said["preset"] = asked.preset
    said["inputs"], left_out = _carried(asked.inputs)
    if left_out:
        said["left_out"] = left_out
    metadata = {**one.metadata, REQUEST: json.dumps(said, ensure_ascii=False)}
    return Made(png_bytes(one.image, metadata), one.seed)


def _carried(inputs: Any) -> tuple[dict[str, Any], list[str]]:
    """The inputs for a picture's metadata, and the keys of the too large ones; files of a form become base64."""
    kept: dict[str, Any] = {}
    room, out = _MOST_CARRIED, []
    for key, value in inputs.items():
        plain = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        size = len(json.dumps(plain))
        if size <= room:
            kept[key] = plain
            room -= size
        else:
            out.append(key)
    return kept, out
