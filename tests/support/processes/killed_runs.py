"""Tiny runs as a program that kills them again and again, or stops them and goes on with other processes.

``python killed_runs.py '{"out": FOLDER, "whole": FOLDER, "kills": 3, "ranks": 2, "settings": [...], "seed": 0}'``,
where the run in `whole` is left in peace, or ``{"chains": [[{"out": ..., "ranks": ..., "settings": [...], "stop":
["denoiser", 4]}, ...], ...]}``: attempts one after the other.

Everything is imported once, then each attempt is forked off: an attempt costs a fraction of a second in place of a
fresh start. Kills come at random moments (a number of steps and a part of one), and every third one inside the write
of a checkpoint, half of a file being on the disk. The last attempt is left alone. Prints JSON: how each attempt ended.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

import ranks
from forked import import_all
from training_runs import TINY, VQ, Watch, go

from ldm_core import hookimpl, storage
from ldm_core.errors import Interrupted
from ldm_core.training.engine import world

import_all()

STAGES = ("first_stage", "latents", "denoiser")
RECIPE: dict[str, Any] = {
    "first_stage": VQ,
    "denoiser": {**TINY["denoiser"], "dropout": 0.1},
    "conditioners": [{"use": "class_label", "width": 16, "dropout": 0.2}],
    "metrics": ["brightness"],
}
SETTINGS = [
    "data.flip=true",
    "first_stage_trainer.steps=16",
    "first_stage_trainer.adversarial_start=5",
    "first_stage_trainer.codebook_start=3",
    "first_stage_trainer.revive_every=4",
    "trainer.steps=24",
    "trainer.schedule=cosine",
    "trainer.accumulate=2",
    "first_stage_trainer.validate_images=4",
    "trainer.validate_images=4",
    "trainer.evaluate_every=5",
    "trainer.evaluate_images=4",
    "trainer.keep_best=brightness",
    *(f"{section}.checkpoint_every=2" for section in ("first_stage_trainer", "trainer")),
]
_TIMEOUT = 60.0


class Telling(Watch):
    """Writes a byte for every step into a pipe."""

    def __init__(self, pipe: int, stop: tuple[str, int] | None) -> None:
        super().__init__(stop)
        self._pipe = pipe

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        os.write(self._pipe, stage[:1].encode())
        super().ldm_step(stage, step, logs)


def _die_in_write(number: int, pipe: int) -> None:
    """Let this process kill itself when half of the `number`-th file of a checkpoint is on the disk, and tell so."""
    true, seen = storage.atomic_write, [0]

    def deadly(url: str, data: Any) -> None:
        if "checkpoints" in str(url):
            seen[0] += 1
            if seen[0] == number:
                with storage.atomic_path(url) as part, part.open("wb") as file:
                    if callable(data):
                        data(file)
                    else:
                        file.write(data.encode() if isinstance(data, str) else data)
                    file.truncate(file.tell() // 2)
                    file.flush()
                    os.write(pipe, b"W")  # else a hang that the time limit ended would pass for such a kill
                    os.kill(os.getpid(), signal.SIGKILL)
        true(url, data)

    storage.atomic_write = deadly  # type: ignore[assignment]


def _attempt(job: Mapping[str, Any], rank: int, port: int, pipe: int, in_write: int) -> NoReturn:
    """One process of one attempt; never returns."""
    code = 1
    try:
        with (Path(job["out"]).parent / f"log-{rank}.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if job["ranks"] > 1:
            os.environ.update(ranks.variables(rank, job["ranks"], port))
        if rank:
            os.close(pipe)  # the first process alone tells: its end is the pipe's
        if in_write:
            _die_in_write(in_write, pipe)
        stop = job.get("stop")
        watch = Telling(pipe, (stop[0], stop[1]) if stop else None) if rank == 0 else None
        go(job["out"], *SETTINGS, *job["settings"], stages=STAGES, watch=watch, **RECIPE)
        world.stop()
        code = 0
    except Interrupted:
        world.stop()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(job: Mapping[str, Any], after: float | None, in_write: int) -> dict[str, Any]:
    """One attempt, killed `after` so many steps, or by itself in a write, or (None, 0) left to its end."""
    reading, writing = os.pipe()
    port = ranks.free_port() if job["ranks"] > 1 else 0
    children = []
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            _attempt(job, rank, port, writing, in_write if rank == 0 else 0)
        children.append(child)
    os.close(writing)
    steps, begun, last, taken = "", time.monotonic(), time.monotonic(), 0.1
    try:
        while time.monotonic() - begun < _TIMEOUT:
            if after is not None and len(steps) >= int(after):
                time.sleep((after - int(after)) * taken)
                break
            ready, _, _ = select.select([reading], [], [], 1.0)
            told = os.read(reading, 1).decode() if ready else ""
            if ready and not told:
                break  # it has ended
            if told:
                steps, taken, last = steps + told, time.monotonic() - last, time.monotonic()
    finally:
        os.close(reading)
        alone = after is None and not in_write
        codes = []
        for child in children:
            if not alone:
                os.kill(child, signal.SIGKILL)
            codes.append(os.waitpid(child, 0)[1])
    killed = any(os.WIFSIGNALED(c) for c in codes)
    failed = any(os.WIFEXITED(c) and os.WEXITSTATUS(c) for c in codes) and not (killed and in_write)
    return {
        "steps": steps.replace("W", ""),
        "killed": killed,
        "in_write": "W" in steps,
        "training": bool(steps),  # else it was still starting
        "timed_out": time.monotonic() - begun >= _TIMEOUT,
        "failed": failed,
    }


def main() -> None:
    """Do the job of the first argument."""
    given = json.loads(sys.argv[1])
    default = {"ranks": 1, "settings": [], "seed": 0}
    if "chains" in given:
        print(json.dumps([_run({**default, **job}, None, 0) for chain in given["chains"] for job in chain]))
        return
    job = {**default, **given}
    undisturbed = _run({**job, "out": job["whole"]}, None, 0)
    if undisturbed["failed"]:
        sys.exit("the undisturbed run failed")
    draw = random.Random(job["seed"])
    attempts = []
    for number in range(job["kills"]):
        in_write = draw.randint(1, 4) if number % 3 == 1 else 0
        attempts.append(_run(job, None if in_write else draw.uniform(0.0, 4.0), in_write))
    attempts.append(_run(job, None, 0))
    print(json.dumps(attempts))


if __name__ == "__main__":
    main()
