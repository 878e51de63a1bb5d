"""Tiny models for the tests of foreign weights, of widths that the published formats can hold."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights
from ldm_core.testing.sources import put
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights.codecs import make_codec

KL = {"use": "kl_ae", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "z_channels": 4}
UNET = {"use": "unet", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [2], "heads": 2}
CLASSES = {"use": "class_label", "classes": 3, "dropout": 0.1}


def plain_model(**changes: Any) -> dict[str, Any]:
    """A class-conditional model of 16-pixel images with latents of 4 x 8 x 8, as plain recipe values."""
    return {
        "image_size": 16,
        "first_stage": KL,
        "denoiser": UNET,
        "conditioners": [CLASSES],
        "sampler": "ddpm",
        "guidance": "none",
        **changes,
    }


@functools.cache
def tiny(part: str = "model", seed: int = 0) -> ModelWeights:
    """The model's random weights, or those of a part; not to be changed."""
    return random_weights(plain_model(), part, seed=seed)


def write(weights: ModelWeights, codec: str, path: Path) -> str:
    """`weights` in the format of `codec` at `path`."""
    made = make_codec(codec, Catalog.discover()).write(weights, path.name)
    return str(put(made.files, path.parent, path.name))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server of the files in `folder`; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
