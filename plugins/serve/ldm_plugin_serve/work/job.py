"""A job: one request on its way from the queue to its pictures. It lives in the server's event loop alone."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.models.request import Asked

State = Literal["queued", "running", "done", "failed", "cancelled"]
Client = tuple[str, str]
"""A client's address, and its own name."""
ENDS = ("done", "failed", "cancelled")
_MOST_EVENTS = 64  # of a listener that is slow to read


@attrs.frozen
class Made:
    """One finished picture: a PNG with its metadata."""

    png: bytes
    seed: int


@attrs.define(eq=False)
class Job:
    """See the module's docstring; `images` has a place for each picture, filled as they are made."""

    asked: Asked
    client: Client
    id: str = attrs.field(factory=lambda: secrets.token_urlsafe(12))
    state: State = "queued"
    images: list[Made | None] = attrs.field(factory=list)
    begun: int = 0
    """Images handed to the sampler."""
    step: int = 0
    steps: int = 0
    """Steps of the present batch."""
    fault: Fault | None = None
    created: float = attrs.field(factory=time.monotonic)
    ended: float = 0.0
    seen: float = attrs.field(factory=time.monotonic)
    waited_for: int = 0
    """Requests waiting for the result."""
    listeners: list[asyncio.Queue[tuple[str, Any]]] = attrs.field(factory=list)
    finished: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.images = [None] * len(self.asked.seeds)
        self.steps = self.asked.steps

    @property
    def left(self) -> int:
        """Images not yet in a batch."""
        return len(self.images) - self.begun if self.state in ("queued", "running") else 0

    @property
    def done(self) -> int:
        """Finished images."""
        return sum(each is not None for each in self.images)

    @property
    def ending(self) -> bool:
        """True once it has ended."""
        return self.state in ENDS

    @property
    def size(self) -> int:
        """The bytes of its pictures."""
        return sum(len(each.png) for each in self.images if each is not None)

    def tell(self, event: str, data: Any) -> None:
        """Hand an event to all listeners; a slow one loses its oldest."""
        for queue in self.listeners:
            if queue.qsize() >= _MOST_EVENTS:
                queue.get_nowait()
            queue.put_nowait((event, data))

    def stepped(self, step: int, steps: int, previews: Iterable[tuple[int, bytes]]) -> None:
        """Its batch has done a step; `previews`: the PNGs of some of its images, by their numbers."""
        self.step, self.steps = step, steps
        if self.listeners:
            said = [{"index": i, "png": base64.b64encode(png).decode()} for i, png in previews]
            self.tell("progress", {
                "step": step, "steps": steps, "images_done": self.done, "images": len(self.images),
                "preview": said[0]["png"] if said else None, "previews": said,
            })  # fmt: skip

    def end(self, state: State, fault: Fault | None = None) -> None:
        """Settle the job, once."""
        if not self.ending:
            self.state, self.fault, self.ended = state, fault, time.monotonic()
            self.finished.set()
            if state != "done":
                self.images = [None] * len(self.images)
                self.tell(state, fault.document() if fault else {"id": self.id})

    def document(self, position: int) -> dict[str, Any]:
        """The state of the job for its client, with the result once it is done."""
        said: dict[str, Any] = {
            "id": self.id, "state": self.state, "position": position, "step": self.step, "steps": self.steps,
            "images_done": self.done, "images": len(self.images),
        }  # fmt: skip
        if self.state == "done":
            said["result"] = self.result()
        if self.fault is not None:
            said |= self.fault.document()
        return said

    def result(self) -> dict[str, Any]:
        """The finished pictures with their settings."""
        pictures = [
            {"index": i, "seed": made.seed, "png": base64.b64encode(made.png).decode()}
            for i, made in enumerate(self.images)
            if made is not None
        ]
        asked = self.asked
        return {
            "id": self.id, "model": asked.entry.id, "images": pictures, "settings": dict(asked.said),
            "preset": asked.preset or None, "seconds": round(self.ended - self.created, 3),
        }  # fmt: skip
