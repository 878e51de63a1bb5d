"""The engine: takes jobs in, forms batches of them in fair order, has them sampled, and hands the results out.

All of its state belongs to the event loop. One thread samples; it sees a batch, and tells the loop of its steps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ldm_core.errors import Interrupted
from ldm_plugin_serve.faults import Fault, of_exception
from ldm_plugin_serve.figures import Figures
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models.request import Asked
from ldm_plugin_serve.models.shelf import Shelf
from ldm_plugin_serve.work.batch import Batch, Part, least_of, room_of
from ldm_plugin_serve.work.job import Client, Job, Made
from ldm_plugin_serve.work.order import Order

if TYPE_CHECKING:
    from ldm_core.sampling.result import Sampled

    Work = tuple[Batch, asyncio.Future[list[Sampled]]]

log = logging.getLogger("ldm_serve")
_SWEEP = 1.0  # seconds between two looks for jobs that nobody waits for
STOPPED = "the server is about to end"


class Engine:
    """See the module's docstring. :meth:`run` is the working task; :meth:`stop` ends it."""

    def __init__(self, shelf: Shelf, limits: Limits, figures: Figures) -> None:
        self.shelf, self.limits, self.figures = shelf, limits, figures
        self.jobs: dict[str, Job] = {}
        self.order = Order()
        self.stopping = False
        self._deadline = float("inf")
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._places: dict[str, int] | None = {}
        self._told: dict[str, int] = {}
        self._ahead: Work | None = None

    def submit(self, asked: Asked, client: Client) -> Job:
        """Put a request into the queue; :class:`Fault` if it is full, or the server ends."""
        if self.stopping:
            raise Fault(STOPPED, status=503, fix="ask another one, or later")
        waiting = [job for job in self.jobs.values() if job.state == "queued"]
        if len(waiting) >= self.limits.queue:
            self.figures.refused.labels("queue").inc()
            raise Fault("the queue is full", status=429, fix="ask again later")
        job = Job(asked, client)
        self.jobs[job.id] = job
        self._changed()
        return job

    def job(self, name: str) -> Job:
        """The job of an id; :class:`Fault` if there is none, or no longer."""
        job = self.jobs.get(name)
        if job is None:
            raise Fault("there is no such job, or its result was let go", "id", status=404)
        job.seen = time.monotonic()
        return job

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or end its sampling at the next step."""
        job.end("cancelled")
        self._changed()

    def position(self, job: Job) -> int:
        """Its place in the queue, from 1 on; 0 for a running one."""
        if self._places is None:
            self._places = self.order.places(self.jobs.values())
        return self._places.get(job.id, 0)

    async def run(self) -> None:
        """Work until the engine is stopped and nothing is left."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            while True:
                self._wake.clear()
                work, self._ahead = self._ahead or self._begun(), None
                if work is not None:
                    await self._sample(*work)
                    self._changed()
                    if any(entry.old for entry in self.shelf.loaded):
                        wanted = [job.asked.entry for job in self.jobs.values() if not job.ending]
                        await asyncio.to_thread(self.shelf.release, wanted)
                elif self.stopping:
                    return
                else:
                    await self._wake.wait()
        finally:
            sweeper.cancel()
            self._thread.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Take nothing more; waiting jobs are answered at once, the running batch ends within a time."""
        if not self.stopping:
            self.stopping, self._deadline = True, time.monotonic() + self.limits.stop
            for job in list(self.jobs.values()):
                if job.state == "queued":
                    job.end("failed", Fault(STOPPED, status=503))
            self._changed()

    def _begun(self) -> Work | None:
        """The next batch, handed to the sampling thread."""
        batch = None if self.stopping else self._next()
        return None if batch is None else (batch, self._handed(batch))

    def _handed(self, batch: Batch) -> asyncio.Future[list[Sampled]]:
        return asyncio.get_running_loop().run_in_executor(self._thread, batch.run, self.shelf)

    def _next(self) -> Batch | None:
        """The next batch: the job in turn, and others of its key as far as there is room."""
        sorted_jobs = self.order.sort(self.jobs.values())
        if not sorted_jobs:
            return None
        first = sorted_jobs[0]
        room, parts = room_of(first.asked, self.limits), list[Part]()
        for job in sorted_jobs:
            if room and job.asked.key == first.asked.key:
                count = min(room, job.left)
                parts.append(Part(job, job.begun, job.begun + count))
                job.begun += count
                room -= count
                self.order.took(job)
        for part in parts:
            if part.job.state == "queued":
                part.job.state = "running"
                self.figures.waited.observe(time.monotonic() - part.job.created)
        self._changed()
        return self._batch(parts)

    def _batch(self, parts: list[Part]) -> Batch:
        loop, jobs = asyncio.get_running_loop(), [part.job for part in parts]

        def stopped() -> bool:
            late = time.monotonic() > self._deadline
            return late or all(job.ending for job in jobs)

        def watched(job: Job) -> bool:
            return bool(job.listeners) and not job.ending

        def tell(step: int, steps: int, previews: Any) -> None:
            loop.call_soon_threadsafe(self._stepped, jobs, step, steps, previews)

        return Batch(
            parts, least_of(parts[0].job.asked, self.limits), stopped, watched, tell, self.limits.preview_pause
        )

    async def _sample(self, batch: Batch, sampling: asyncio.Future[list[Sampled]]) -> None:
        """Take a batch from the sampling thread; after a failure of several jobs, each is sampled by itself."""
        began = time.monotonic()
        try:
            made = await sampling
        except Interrupted:
            for part in batch.parts:
                part.job.end("failed", Fault(STOPPED, status=503))  # but for those that were cancelled
        except BaseException as error:  # of a part, even one that would end a thread
            if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
                raise
            if len(batch.parts) > 1:
                for part in batch.parts:
                    if not part.job.ending:
                        alone = self._batch([part])
                        await self._sample(alone, self._handed(alone))
            else:
                self._failed(batch.parts[0].job, error)
        else:
            self.figures.batch.observe(len(made))
            self.figures.sampled(batch.asked.entry.id, len(made), time.monotonic() - began)
            self._place(batch, await asyncio.to_thread(batch.pictures, made))

    def _place(self, batch: Batch, made: list[Made]) -> None:
        for (job, number), one in zip(batch.places, made, strict=True):
            if not job.ending:
                job.images[number] = one
        for part in batch.parts:
            job = part.job
            if not job.ending and job.done == len(job.images):
                job.end("done")
                self.figures.took.observe(job.ended - job.created)
                self.figures.jobs.labels("done").inc()
                if job.listeners:
                    job.tell("done", job.result())
        _forget(self.jobs, self.limits)

    def _failed(self, job: Job, error: BaseException) -> None:
        fault = of_exception(error, job.asked.inputs)
        log.warning("job %s failed: %s: %s", job.id, type(error).__name__, error, exc_info=fault.status == 500)
        self.figures.jobs.labels("failed").inc()
        job.end("failed", self.shelf.hidden(fault))

    def _stepped(self, jobs: list[Job], step: int, steps: int, previews: Any) -> None:
        if step == steps and self._ahead is None:  # while the last step is decoded, so that the thread never rests
            self._ahead = self._begun()
        for job in jobs:
            if not job.ending:
                job.stepped(step, steps, (previews or {}).get(job.id, []))

    def _changed(self) -> None:
        """The queue is another one: wake the worker, and tell waiting jobs their places; they are counted if asked."""
        waiting = [job for job in self.jobs.values() if job.state == "queued"]
        self._places = None
        places = {job.id: self.position(job) for job in waiting if job.listeners}
        for job in waiting:
            if job.listeners and self._told.get(job.id) != places[job.id]:
                job.tell("position", {"position": places[job.id]})
        self._told = places
        self.figures.queue.set(len(waiting))
        self._wake.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now = time.monotonic()
            for job in [job for job in self.jobs.values() if not job.ending]:
                if now - job.created > self.limits.job:
                    job.end("failed", Fault("took too long", status=504, fix="ask for less, or later"))
                    self._changed()
                elif not job.waited_for and not job.listeners and now - job.seen > self.limits.unseen:
                    self.cancel(job)
            _forget(self.jobs, self.limits)


def _forget(jobs: dict[str, Job], limits: Limits) -> None:
    """Let old results go, and too many."""
    now = time.monotonic()
    ended = [job for job in jobs.values() if job.ending and not job.waited_for and not job.listeners]
    total = sum(job.size for job in ended)
    for job in ended:
        if now - job.ended > limits.keep or total > limits.kept:
            total -= job.size
            del jobs[job.id]
