"""The checkpoints of a training: restore the newest, save at a step boundary, be sure of the last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ldm_core import storage
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.model.finite import Bad, bad_tensors, in_words
from ldm_core.recipe.settings import EngineSettings
from ldm_core.training.checkpoints import files
from ldm_core.training.checkpoints.snapshot import HostCopy, Restore, optimizer_steps, part_tensors
from ldm_core.training.checkpoints.writer import Writer
from ldm_core.training.engine.collective import from_main
from ldm_core.training.folder.stopping import Run

if TYPE_CHECKING:
    from ldm_core.training.task import Task

_POLL = 0.05
_LONG = 1.0  # seconds of waiting for the last write, before a word on it


class Checkpointer:
    """The checkpoints of one task in `folder`. All processes make one and call the same methods at the same steps.

    As a context it waits for a write under way if an error ends the training; a second Ctrl-C leaves at once.
    """

    def __init__(self, task: Task, folder: str, identity: str, settings: EngineSettings, run: Run) -> None:
        self._task, self._folder, self._identity, self._settings, self._run = task, folder, identity, settings, run
        self._writer: Writer | None = None
        self._host = HostCopy()
        self._newest = 0
        self._waited_before = False

    # ---------------------------------------------------------------------------------------------------- resume

    def restore(self) -> int:
        """Load the newest whole checkpoint into the task and give its step, 0 without one."""
        run = self._run
        search = from_main(run.world, self._search)
        for line in search.damaged.values():
            run.say(line, "warning")
        found = search.found
        known = [found.name, *search.older] if found else []
        if run.world.main:
            self._writer = Writer(
                self._folder,
                keep=self._settings.keep_checkpoints,
                keep_every=self._settings.keep_every,
                background=self._settings.background,
                known=known,
                damaged=list(search.damaged),
            )
        if found is None:
            if search.damaged:
                run.say(f"{self._task.stage}: no checkpoint is whole; training starts anew", "warning")
            return 0
        self._fill(found)
        self._newest = found.step
        if found.step < self._settings.steps:
            stage = self._task.stage.replace("_", " ")
            run.say(f"{stage}: goes on from step {found.step} of {self._settings.steps}, by its checkpoint")
        return found.step

    def _search(self) -> files.Search:
        with contextlib.suppress(StorageError):  # may not be allowed to delete; a half-written one is never taken
            if begun := files.clean(self._folder):
                self._run.say(f"removed {len(begun)} checkpoint(s) that a killed process did not finish")
        return files.newest(self._folder, self._identity, self._run.recipe)

    def _fill(self, found: files.Found) -> None:
        task, manifest = self._task, found.manifest
        task.part_steps.update({part.name: int(manifest["part_steps"][part.name]) for part in task.parts})
        restore = Restore(task.parts, manifest.get("optimizer_steps", manifest["part_steps"]))
        bad: dict[str, Bad] = {}
        restore.take(self._inspected(found.tensors(), bad))
        if bad:
            raise CheckpointError(
                f"{task.stage}: {storage.shown(found.url)}: {in_words(bad)}; training cannot go on from it: delete "
                "that folder, and the same command goes on from the checkpoint before it, or from the beginning"
            )
        restore.finish()
        if task.ema is not None:
            task.ema.load(restore.group("ema"), int(manifest["ema_updates"]))
        task.load_state(restore.group("task"))
        self._compare(manifest)

    def _inspected(self, named: Iterator[tuple[str, Tensor]], bad: dict[str, Bad]) -> Iterator[tuple[str, Tensor]]:
        """`named` as they come; the parts' weights not finite are put down in `bad`."""
        parts = self._task.parts
        weights = {f"{p.name}/state/{n}" for p in parts for n, _ in p.module.named_parameters(remove_duplicate=False)}
        for name, value in named:
            if name in weights:
                bad.update(bad_tensors({name: value}))
            yield name, value

    def _compare(self, manifest: dict[str, Any]) -> None:
        """Report changed circumstances of the resumed run, as they change the order of sums."""
        now = self._circumstances()
        changed = [f"{k} {manifest[k]} -> {v}" for k, v in now.items() if k in manifest and manifest[k] != v]
        if changed:
            self._run.say(
                f"{self._task.stage}: goes on from a checkpoint that was made otherwise ({', '.join(changed)}); the "
                "result will be the same to rounding, not bit for bit",
                "warning",
            )

    def _circumstances(self) -> dict[str, Any]:
        world = self._run.world
        device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
        return {
            "threads": torch.get_num_threads(),
            "processes": world.size,
            "zero": self._settings.zero,
            "accumulate": self._settings.accumulate,
            "device": device,
            "torch": torch.__version__,
        }

    # ------------------------------------------------------------------------------------------------------ save

    def save(self, step: int, *, last: bool) -> None:
        """Take the state as it is after `step` and write it, in the background unless it is the `last`.

        At most one write is under way: training waits for the one before. If the last one fails, all processes
        raise :class:`CheckpointError`; any other failure is a warning.
        """
        task, run = self._task, self._run
        self._wait()
        tensors = self._host.take(self._state(), keep=run.world.main)
        steps = {part.name: optimizer_steps(part) for part in task.parts}
        if self._writer is not None:
            manifest = {
                "identity": self._identity,
                **({"recipe": dict(run.recipe)} if run.recipe else {}),
                "part_steps": dict(task.part_steps),
                "optimizer_steps": steps,
                "ema_updates": task.ema.updates if task.ema is not None else 0,
                "written": round(time.time(), 3),
                **self._circumstances(),
            }
            self._writer.start(step, tensors, manifest)
            run.metrics.flush()
        if last:
            self._wait()
            from_main(run.world, lambda: self._require(step))

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        task = self._task
        for part in task.parts:
            yield from part_tensors(part)
        if task.ema is not None:
            for name, value in task.ema.tensors().items():
                yield f"ema/{name}", value
        for name, value in task.state().items():
            yield f"task/{name}", value

    def _wait(self) -> None:
        """Wait until no write is under way; processes wait in short calls, so none of them times out."""
        begun = time.monotonic()
        while self._run.world.any(self._writer is not None and self._writer.busy):
            if self._writer is None:
                time.sleep(_POLL)
            else:
                self._writer.wait(_POLL)  # and not a moment longer than the write takes
        waited = time.monotonic() - begun
        if waited > _LONG and not self._waited_before:
            self._waited_before = True
            self._run.say(
                f"{self._task.stage}: waited {waited:.0f} s for a checkpoint to be written; more steps between two "
                "(checkpoint_every) or a faster place would spare that"
            )
        self.report()

    def report(self) -> None:
        """Say at a step boundary how a write in the background went, if one has ended since."""
        if self._writer is None or (outcome := self._writer.outcome()) is None:
            return
        if outcome.error is None:
            self._newest = outcome.step
            return
        stays = f"the checkpoint of step {self._newest} stays" if self._newest else "there is none yet"
        self._run.say(
            f"{self._task.stage}: the checkpoint of step {outcome.step} could not be written: {outcome.error}; {stays} "
            "and training goes on",
            "warning",
        )

    def _require(self, step: int) -> None:
        if self._newest != step:
            raise CheckpointError(
                f"{self._task.stage}: the last checkpoint, of step {step}, could not be written to "
                f"{storage.shown(self._folder)}; mend that and run the same command again: it goes on from step "
                f"{self._newest}"
            )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt) and self._writer is not None:
            self._writer.wait()
