"""``ldm-run serve``: trained models over HTTP, with a page to play with."""

from __future__ import annotations

import os
import sys
from typing import Literal

import attrs

from ldm_core.cli import argument, command, installed, option, together
from ldm_core.cli.options import device_option, quiet_option
from ldm_core.errors import ConfigError
from ldm_plugin_serve.limits import Limits

TOKEN = "LDM_SERVE_TOKEN"
"""The variable of the environment with the token."""
_OWN = Limits()
_MIB = 1 << 20


@attrs.frozen(kw_only=True)
class LimitOptions:
    """Limits of requests and of memory."""

    batch: int = option(_OWN.batch, "Images sampled together; 1: each alone.", metavar="N", minimum=1, maximum=1024)
    rows: int = option(
        _OWN.rows, "Rows of the network at once, by repeats; 1: not filled up.", metavar="N", minimum=1, maximum=1024
    )
    images: int = option(_OWN.images, "Images of a request.", metavar="N", minimum=1, maximum=1024)
    steps: int = option(_OWN.steps, "Steps of a request.", metavar="N", minimum=1, maximum=10_000)
    pixels: int = option(_OWN.pixels, "Pixels of an image.", metavar="N", minimum=1)
    body: float = option(_OWN.body / _MIB, "Size of a request, in MiB.", metavar="MIB", above=0, maximum=1024)
    queue: int = option(_OWN.queue, "Waiting requests.", metavar="N", minimum=1, maximum=100_000)
    memory: float = option(_OWN.memory / _MIB, "Weights of loaded models, in MiB.", metavar="MIB", above=0)
    seconds: float = option(_OWN.job, "Life of a request in the queue and at work.", metavar="S", above=0)


@attrs.frozen(kw_only=True)
class ServeOptions:
    """The runs, the address, the limits."""

    runs: tuple[str, ...] = argument("RUN...", "Folders of runs, or weights.", completes="folder")
    host: str = option("127.0.0.1", "Address to listen at.", metavar="ADDRESS", group="Address", filled=True)
    port: int = option(8000, "Port; 0: any free one.", metavar="N", minimum=0, maximum=65535, group="Address")
    name: tuple[str, ...] = option(
        (), "A name of this machine by which it may be asked; repeat for several.", metavar="NAME", group="Address",
        otherwise="localhost and addresses",
    )  # fmt: skip
    token_file: str | None = option(
        None, "File with the token that clients must send.", metavar="FILE", group="Address", completes="file",
        otherwise="LDM_SERVE_TOKEN; one is drawn beyond this machine",
    )  # fmt: skip
    limits: LimitOptions = together(LimitOptions, "Limits")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "Arithmetic of the networks.", group="Models")
    device: str | None = device_option("Models")
    quiet: bool = quiet_option("Warnings alone.")


@command(
    ServeOptions,
    examples=[
        "ldm-run serve runs/demo",
        "ldm-run serve runs/a runs/b --port 9000 --memory 2000",
        "LDM_SERVE_TOKEN=... ldm-run serve runs/demo --host 0.0.0.0",
    ],
)
def serve(options: ServeOptions) -> int:
    """Serve trained models on this machine: a page to sample from them in a browser, the same for programs
    (/v1/sample, described at /docs), and a blind comparison of two runs (/compare). A run that still trains shows
    its curves. Beyond this machine's own address a token is asked for. Ends by SIGTERM, after the running work.
    """
    import logging

    from ldm_plugin_serve.models.shelf import known_runs
    from ldm_plugin_serve.web.app import application
    from ldm_plugin_serve.web.guard import is_loopback
    from ldm_plugin_serve.web.server import bound, server

    sys.setswitchinterval(0.0005)  # seconds; at 0.005 the sampler waits for each answer that is written meanwhile
    known_runs(options.runs)
    level = logging.WARNING if options.quiet else logging.INFO
    logging.basicConfig(format="%(levelname).1s %(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ldm_serve").setLevel(level)
    token, drawn = _token(options, needed=not is_loopback(options.host))
    limits = _limits(options.limits)
    app = application(
        options.runs, installed(), limits, token=token, names=options.name, device=options.device,
        precision=options.precision,
    )  # fmt: skip
    made = server(app, limits, options.host, options.port)
    listening = bound(options.host, options.port)
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"http://{shown}:{port}/" + (f"#token={token}" if drawn else ""), flush=True)
    made.run(sockets=[listening])
    if made.signalled:
        # all is answered and nothing is to be saved; taking torch down may take seconds on a busy machine
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _token(options: ServeOptions, *, needed: bool) -> tuple[str, bool]:
    """The token, and True if it was drawn just now."""
    import secrets

    from ldm_core import storage

    given = os.environ.get(TOKEN, "")
    if options.token_file:
        given = storage.read_text(options.token_file).strip()
    if given and (len(given) < 16 or not given.isascii() or not given.isprintable()):
        raise ConfigError("the token: expected 16 characters or more, of ASCII")
    if given or not needed:
        return given, False
    return secrets.token_urlsafe(24), True


def _limits(given: LimitOptions) -> Limits:
    return Limits(
        batch=given.batch, rows=given.rows, images=given.images, steps=given.steps, pixels=given.pixels,
        body=int(given.body * _MIB), queue=given.queue, memory=int(given.memory * _MIB), job=given.seconds,
    )  # fmt: skip
