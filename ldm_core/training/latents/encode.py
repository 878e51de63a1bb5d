"""Encoding all images once, by all processes: each encodes its own shards, and finished shards stay in any case."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ldm_core import storage
from ldm_core.contracts import FirstStage
from ldm_core.data.collate import to_images
from ldm_core.errors import CheckpointError, Interrupted, LDMError, StorageError
from ldm_core.sampling.picture_folder import require_writable
from ldm_core.training.engine.collective import from_main
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import begin_worker, workers_as_asked
from ldm_core.training.folder.stopping import Run
from ldm_core.training.latents.shards import (
    DTYPES,
    MANIFEST,
    Shard,
    Source,
    manifest,
    pack,
    plan,
    read_manifest,
    unpack,
)

Records = dict[int, dict[str, Any]]


@attrs.frozen
class Ensured:
    """The finished moments' manifest, or None if they do not fit into their folder; the number of shards `made`."""

    manifest: Mapping[str, Any] | None
    made: int


@attrs.frozen
class _Todo:
    """The `missing` ones of all `shards`; in batches, the `total` and the number `done`."""

    shards: Sequence[Shard]
    missing: Sequence[Shard]

    @property
    def total(self) -> int:
        return sum(len(s.batches()) for s in self.shards)

    @property
    def done(self) -> int:
        return self.total - sum(len(s.batches()) for s in self.missing)


def ensure(
    stage: Callable[[], FirstStage],
    examples: Examples,
    run: Run,
    folder: str,
    source: Source,
    *,
    keep: int,
    workers: int,
) -> Ensured:
    """Make the missing moments in `folder`.

    Every process must call it. Present shards are checked first: their sizes, and their content if it is at hand (a
    local disk, or less than `keep` bytes); damaged shards are named and made again. `stage` is called only if something
    is missing.
    """
    stage = functools.cache(stage)
    found = from_main(run.world, lambda: _found(run, folder, source))
    good: Records = {}
    shards: list[Shard] = []
    if found is not None:
        good = _checked(run, folder, found, keep)
        if len(good) == len(found["shards"]):
            return Ensured(found, 0)
    device = run.world.device
    groups = _sizes(examples)
    shards = plan(source, [(size, indices, _shape(stage(), size, source, device)) for size, indices in groups])
    if found is None:
        good = _leftovers(run, folder, source.key, shards)
    missing = [s for s in shards if s.number not in good]
    if lacking := from_main(run.world, lambda: _lacking_room(folder, source, missing)):
        run.say(
            f"latents: {lacking}; images are encoded at each step (trainer.latents=URL puts them elsewhere)", "warning"
        )
        return Ensured(None, 0)
    good.update(_encode(stage(), examples, run, (folder, source), _Todo(shards, missing), workers))
    whole = manifest(source, list(good.values()))
    if run.world.main:
        storage.atomic_write(storage.join(folder, MANIFEST), json.dumps(whole, indent=1, sort_keys=True))
    run.world.barrier()
    return Ensured(whole, len(missing))


def _found(run: Run, folder: str, source: Source) -> dict[str, Any] | None:
    try:
        return read_manifest(folder, source)
    except CheckpointError as error:
        run.say(f"latents: {error}; its shards are looked at one by one", "warning")
        return None


def _listed(folder: str) -> dict[str, int]:
    try:
        return {storage.base_name(f.url): f.size for f in storage.list_files(folder)}
    except StorageError:
        return {}  # no such folder yet


def _checked(run: Run, folder: str, found: Mapping[str, Any], keep: int) -> Records:
    """The shards of a finished cache matching its manifest; each process reads its share."""
    sizes = from_main(run.world, lambda: _listed(folder))
    read = storage.local_path(folder) is not None or found["bytes"] <= keep
    good: Records = {}
    problems: list[str] = []
    for shard in found["shards"][run.world.rank :: run.world.size]:
        url = storage.join(folder, shard["file"])
        if sizes.get(shard["file"]) != shard["bytes"]:
            there = sizes.get(shard["file"])
            problems.append(f"{storage.shown(url)} " + ("is missing" if there is None else "was cut short"))
        elif read and hashlib.sha256(storage.read_bytes(url)).hexdigest() != shard["sha256"]:
            problems.append(f"{storage.shown(url)} is damaged (its content does not match its hash)")
        else:
            good[shard["number"]] = shard
    return _together(run, good, problems)


def _leftovers(run: Run, folder: str, key: str, shards: Sequence[Shard]) -> Records:
    """The shards left by an unfinished run; each process reads its share."""
    sizes = from_main(run.world, lambda: _listed(folder))
    good: Records = {}
    problems: list[str] = []
    for shard in shards[run.world.rank :: run.world.size]:
        if shard.file in sizes:
            url = storage.join(folder, shard.file)
            try:
                good[shard.number] = unpack(storage.read_bytes(url), url, key, shard)
            except CheckpointError as error:
                problems.append(str(error))
    return _together(run, good, problems)


def _together(run: Run, good: Records, problems: Sequence[str]) -> Records:
    every: Records = {}
    for others, lines in run.world.gather((good, list(problems))):
        every.update(others)
        for line in lines:
            run.say(f"latents: {line}; it is encoded again", "warning")
    return every


def _sizes(examples: Examples) -> Iterator[tuple[tuple[int, int], Sequence[int]]]:
    """Each image size of the data, with its examples."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in range(len(examples)):
        by_size.setdefault(examples.size_of(index), []).append(index)
    for size, indices in sorted(by_size.items()):
        yield size, range(len(examples)) if len(by_size) == 1 else indices


@torch.no_grad()
def _shape(stage: FirstStage, size: tuple[int, int], source: Source, device: torch.device) -> tuple[int, ...]:
    return tuple(stage.encode_moments(torch.zeros(1, source.image_channels, *size, device=device)).shape[1:])


def _lacking_room(folder: str, source: Source, missing: Sequence[Shard]) -> str:
    """The reason why the moments do not fit into `folder`; "" if they fit, or if unknown."""
    path = storage.local_path(folder)
    if path is None:
        return ""
    each = DTYPES[source.dtype].itemsize * source.flips
    needed = sum(each * int(np.prod(s.shape)) * len(s.indices) for s in missing)
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    return f"they take {_gigabytes(needed)} and {there} has {_gigabytes(free)} left" if needed > 0.95 * free else ""


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


class _Pictures(TorchDataset):
    """Item n: the n-th batch as uint8 (flips, n, c, H, W), or its reading error; its sources; the unreadable ones.

    The sources are the indices of the found examples. In a loader's process, if any, so decoding keeps up with the
    encoder.
    """

    def __init__(self, examples: Examples, work: Sequence[tuple[Sequence[int], tuple[int, int]]], flips: int) -> None:
        self._examples, self._work, self._flips = examples, work, flips

    def __len__(self) -> int:
        return len(self._work)

    def __getitem__(self, number: int) -> tuple[np.ndarray | LDMError, Tensor, dict[str, str]]:
        indices, size = self._work[number]
        with self._examples.dataset.apart() as met:
            try:
                found = [self._examples.dataset.resolve(i) for i in indices]
            except LDMError as error:  # as a value: raised in a worker it would lose its form on the way
                return error, torch.zeros(0), {}
        size = self._examples.size_of(indices[0])  # all of a batch are of one shard, and so of one size
        pictures = [
            [self._examples.fitted(example, bool(mirrored), size)["image"] for _, example in found]
            for mirrored in range(self._flips)
        ]
        return np.asarray(pictures), torch.tensor([i for i, _ in found]), met


@torch.no_grad()
def _encode(
    stage: FirstStage, examples: Examples, run: Run, place: tuple[str, Source], todo: _Todo, workers: int
) -> Records:
    """Encode the missing shards, in rounds of one a process, and write each complete one at once."""
    world, (folder, source), done = run.world, place, todo.done
    if world.main:
        run.hook.ldm_stage_start(stage="latents", steps=todo.total, start=done)
        require_writable(folder)
    world.barrier()
    mine = todo.missing[world.rank :: world.size]
    made: Records = {}
    with closing(_pictures(examples, mine, source, workers)) as pictures:
        for turn in range(-(-len(todo.missing) // world.size)):
            together = todo.missing[turn * world.size : (turn + 1) * world.size]
            shard = mine[turn] if turn < len(mine) else None
            parts: list[tuple[Tensor, Tensor]] = []
            bad: dict[str, str] = {}
            for n in range(max(len(s.batches()) for s in together)):
                # All processes take part as often: none waits for longer than a batch.
                if world.any(bool(run.stop.asked)):
                    if world.main:
                        run.hook.ldm_stage_end(stage="latents", status="interrupted")
                    raise Interrupted("latents: stopped; the same command goes on from the shards that are finished")
                if shard is not None and n < len(shard.batches()):
                    arrays, sources, met = next(pictures)
                    if isinstance(arrays, LDMError):
                        raise arrays
                    bad.update(met)
                    flips = [stage.encode_moments(to_images(a).to(world.device)).float().cpu() for a in arrays]
                    parts.append((torch.stack(flips), sources))
                done += sum(n < len(s.batches()) for s in together)
                if world.main:
                    run.hook.ldm_step(stage="latents", step=done, logs={})
            if shard is not None:
                made[shard.number] = _write(folder, source, shard, parts)
            examples.dataset.add({name: why for theirs in world.gather(bad) for name, why in theirs.items()})
    return {number: record for theirs in world.gather(made) for number, record in theirs.items()}


def _pictures(examples: Examples, shards: Sequence[Shard], source: Source, workers: int) -> Generator[Any, None, None]:
    """The pictures of `shards`, batch by batch, read and fitted by `workers` processes; closing it ends these."""
    work = [(batch, shard.size) for shard in shards for batch in shard.batches()]
    with workers_as_asked():
        loader = DataLoader(
            _Pictures(examples, work, source.flips),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=begin_worker,
            generator=torch.Generator(),  # it draws a seed for its workers, otherwise from torch's global one
        )
        batches = iter(loader)
    try:
        yield from batches
    finally:
        del batches  # and with it its workers: the traceback of an error would keep them


def _write(folder: str, source: Source, shard: Shard, parts: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Write a shard's file of (moments, sources of each) and give its record."""
    exact = torch.cat([m for m, _ in parts], dim=1)
    stored = exact.to(DTYPES[source.dtype])
    lost = float((exact - stored.float()).double().square().sum())
    data, record = pack(source.key, shard, stored, torch.cat([s for _, s in parts]), lost)
    storage.atomic_write(storage.join(folder, shard.file), data)
    return record
