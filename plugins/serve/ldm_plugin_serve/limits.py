"""The limits of a server: of a request, of the queue, of memory and of time."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds held for every client. Sizes are in bytes and pixels, times in seconds."""

    images: int = 16
    steps: int = 250
    pixels: int = 1 << 20
    """Pixels of one sample."""
    body: int = 16 << 20
    """Bytes of one request, as sent."""
    given_pixels: int = 16_000_000
    """Pixels of a picture in a request."""
    text: int = 4000
    """Characters of a prompt."""
    boxes: int = 256
    queue: int = 256
    """Waiting requests of all clients."""
    batch: int = 8
    """Images sampled together, at the model's own size."""
    rows: int = 4
    """Rows of the network, at least: smaller batches are filled up by repeats, as a CPU rounds sums of fewer rows
    otherwise. 1: none is."""
    memory: int = 4 << 30
    """Bytes of the weights of loaded models; one model is loaded however large."""
    kept: int = 256 << 20
    """Bytes of finished results, not yet fetched."""
    keep: float = 600.0
    """Life of a finished result."""
    unseen: float = 60.0
    """A job is cancelled after so long without its client."""
    job: float = 600.0
    """Life of a job from its request to its result."""
    body_time: float = 30.0
    """For a whole request to arrive."""
    head_time: float = 10.0
    """For the head of a request to arrive."""
    send_time: float = 30.0
    """For a client to take a part of an answer."""
    stop: float = 6.0
    """For running work, once the server is told to end."""
    preview_pause: float = 0.2
    """Between two previews of a batch, at least."""

    def public(self) -> dict[str, int]:
        """Those of a request, for clients."""
        return {
            "images": self.images,
            "steps": self.steps,
            "pixels": self.pixels,
            "body": self.body,
            "text": self.text,
            "boxes": self.boxes,
        }
