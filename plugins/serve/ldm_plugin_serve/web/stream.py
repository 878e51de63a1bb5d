"""Server-sent events of a job."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from ldm_plugin_serve.work.engine import Engine
from ldm_plugin_serve.work.job import ENDS, Job

_BEAT = 10.0  # seconds between signs of life, by which a client that is gone is noticed


def events(engine: Engine, job: Job) -> StreamingResponse:
    """The answer: the job's present state first, then each change, until it ends."""
    return StreamingResponse(
        _told(engine, job), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )  # fmt: skip


async def _told(engine: Engine, job: Job) -> AsyncIterator[str]:
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    job.listeners.append(queue)
    try:
        if job.state == "queued":
            yield _event("position", {"position": engine.position(job)})
        elif job.state == "running":
            yield _event("progress", {
                "step": job.step, "steps": job.steps, "images_done": job.done, "images": len(job.images),
                "preview": None, "previews": [],
            })  # fmt: skip
        elif job.state == "done":
            yield _event("done", job.result())
        else:
            yield _event(job.state, job.fault.document() if job.fault else {"id": job.id})
        while not (job.ending and queue.empty()):
            try:
                name, data = await asyncio.wait_for(queue.get(), _BEAT)
            except TimeoutError:
                yield ": alive\n\n"
                continue
            yield _event(name, data)
            if name in ENDS:
                return
    finally:
        job.listeners.remove(queue)
        job.seen = time.monotonic()


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
