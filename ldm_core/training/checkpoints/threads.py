"""The number of threads of a run, from its begin to its end: with another number sums are rounded otherwise."""

from __future__ import annotations

import json
from contextlib import suppress

import torch

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.launch import threads
from ldm_core.launch.cores import cores
from ldm_core.training.checkpoints import files
from ldm_core.training.context import RunContext
from ldm_core.training.engine.collective import from_main


def hold(context: RunContext) -> None:
    """Compute with the threads of the run's begin, so that it ends with the same bits; and note the number.

    Only in a command's own process, if nobody has chosen another number and the cores open to it are as many. What is
    not held is told when a checkpoint is loaded.
    """
    run, command = context.run, threads.current()
    number = from_main(run.world, lambda: context.own.threads or _of_checkpoints(context.out))
    now = torch.get_num_threads()
    if number is not None and number != now and command is not None and command.free and number <= cores():
        torch.set_num_threads(number)
        run.say(
            f"threads: {number}, as at the run's begin, for the same bits at its end (now {now} would be chosen; "
            f"{threads.NUMBER[0]}={now} takes them)"
        )
    from_main(run.world, lambda: context.own.keep_threads(torch.get_num_threads()))


def _of_checkpoints(out: str) -> int | None:
    """The number in the newest manifest of a run that noted none."""
    for stage in ("denoiser", "first_stage"):
        folder = storage.join(out, "checkpoints", stage)
        with suppress(StorageError, ValueError, AttributeError, IndexError):
            newest = files.listed(folder)[0][0]
            number = json.loads(storage.read_bytes(storage.join(folder, newest, files.MANIFEST))).get("threads")
            return number if isinstance(number, int) else None
    return None
