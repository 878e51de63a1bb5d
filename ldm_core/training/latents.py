"""The images' moments, encoded once by a frozen first stage and kept beside the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from safetensors.torch import load, save
from torch import Tensor

from ldm_core import artifacts, storage
from ldm_core.batch import to_images
from ldm_core.contracts import FirstStage
from ldm_core.errors import CheckpointError, Interrupted
from ldm_core.recipe import digest
from ldm_core.training.loader import Examples, Place
from ldm_core.training.loop import Run

LIMIT = 4 << 30
"""Bytes of moments up to which they are kept; beyond it images are encoded at each step."""
_BATCH = 32


@attrs.frozen(eq=False)
class Moments:
    """`tensor` (flips, N, M, *s); `sources` (N,): the index of the example that stands at each place, which is
    another one where an example could not be read."""

    tensor: Tensor
    sources: Tensor


def key_of(stage_sha256: str, fingerprint: str, size: tuple[int, int], fit: str, flip: bool) -> str:
    """What a cache depends on: the first stage's weights, the data, and how an image is prepared."""
    return digest([stage_sha256, fingerprint, list(size), fit, flip])


def fits(url: str, key: str) -> bool:
    """Whether there are moments at `url`, made from just this; their header alone is read."""
    if not storage.exists(url):
        return False
    try:
        header, _ = artifacts.raw_header(url)
    except CheckpointError:
        return False
    return (header.get("__metadata__") or {}).get("key") == key


def cached(url: str, key: str) -> Moments | None:
    """The moments at `url`, or None where there are none or they were made from something else."""
    if not fits(url, key):
        return None
    tensors = load(storage.read_bytes(url))
    return Moments(tensors["moments"], tensors["sources"])


@torch.no_grad()
def encode(stage: FirstStage, examples: Examples, run: Run, *, flip: bool, url: str, key: str) -> Moments | None:
    """Encode all images to moments and keep them at `url`; None where they would take more than :data:`LIMIT`.

    Every process encodes the whole data for itself; the main one writes.
    """
    count, device = len(examples), run.world.device
    out: Tensor | None = None
    sources = torch.zeros(count, dtype=torch.int64)
    flips = 2 if flip else 1
    starts = range(0, count, _BATCH)
    if run.world.main:
        run.hook.ldm_stage_start(stage="latents", steps=len(starts), start=0)
    for n, start in enumerate(starts):
        if run.world.any(bool(run.stop.asked)):
            if run.world.main:
                run.hook.ldm_stage_end(stage="latents", status="interrupted")
            raise Interrupted("latents: stopped; the same command encodes them again")
        indices = range(start, min(start + _BATCH, count))
        found = [examples.dataset.resolve(i) for i in indices]
        sources[list(indices)] = torch.tensor([i for i, _ in found])
        for mirrored in range(flips):
            images = to_images([examples.fitted(e, bool(mirrored))["image"] for _, e in found]).to(device)
            moments = stage.encode_moments(images).float().cpu()
            if out is None:
                shape = (flips, count, *moments.shape[1:])
                if moments[0].numel() * 4 * flips * count > LIMIT:
                    return None
                out = torch.empty(shape)
            out[mirrored, start : start + len(indices)] = moments
        if run.world.main:
            run.hook.ldm_step(stage="latents", step=n + 1, logs={})
    assert out is not None
    if run.world.main:
        meta = {"key": key, "ldm_core": json.dumps({"format": 1, "kind": "moments"})}
        storage.atomic_write(url, save({"moments": out, "sources": sources}, metadata=meta))
    return Moments(out, sources)


class LatentExamples:
    """What the denoiser trains on: moments from the cache, and the keys that conditioners read."""

    def __init__(self, moments: Moments, examples: Examples | None) -> None:
        self._moments, self._examples = moments, examples
        self.keys: Mapping[str, str] = {**(examples.keys if examples else {}), "moments": "value"}

    def __call__(self, place: Place) -> Mapping[str, Any]:
        """The example at `place`."""
        moments = self._moments.tensor[int(place.flip), place.index]
        if self._examples is None:
            return {"moments": moments}
        source = attrs.evolve(place, index=int(self._moments.sources[place.index]))
        return {**self._examples[source], "moments": moments}
