"""The routes, as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ldm_core.catalog import Catalog
from ldm_core.errors import LDMError
from ldm_plugin_serve.faults import Fault, of_error
from ldm_plugin_serve.figures import Figures
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models.description import described
from ldm_plugin_serve.models.request import asked
from ldm_plugin_serve.models.shelf import Shelf
from ldm_plugin_serve.web import body, stream
from ldm_plugin_serve.web.guard import Guard
from ldm_plugin_serve.web.more import More
from ldm_plugin_serve.work.engine import Engine
from ldm_plugin_serve.work.job import Client, Job

log = logging.getLogger("ldm_serve")
PAGE = Path(__file__).parent.parent / "page"
"""The folder of the page's files."""
_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json", ".ico": "image/x-icon",
    ".woff2": "font/woff2", ".webp": "image/webp",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Site:
    """The shared state of all routes, and the routes of models and jobs."""

    def __init__(self, shelf: Shelf, catalog: Catalog, limits: Limits) -> None:
        self.shelf, self.catalog, self.limits = shelf, catalog, limits
        self.figures = Figures()
        self.engine = Engine(shelf, limits, self.figures)
        self.decoding = asyncio.Semaphore(2)

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        entries = [await asyncio.to_thread(self.shelf.refreshed, each) for each in list(self.shelf.entries.values())]
        rows = [await asyncio.to_thread(described, entry, self.catalog, self.limits) for entry in entries]
        return JSONResponse({"models": rows, "limits": self.limits.public()})

    async def sample(self, request: Request) -> Response:
        """``POST /v1/sample``."""
        said = await body.read(request, self.limits)
        wait = request.query_params.get("wait", "true")
        if wait not in ("true", "false", "1", "0"):
            raise Fault("expected true or false", "wait", status=400, allowed=["true", "false"])
        form = said.get("format") if isinstance(said, dict) else None
        if form not in (None, "json", "png"):
            raise Fault("is none of the choices", "format", allowed=["json", "png"])
        async with self.decoding:
            checked = await asyncio.to_thread(asked, said, self.shelf, self.limits)
        if form == "png" and (len(checked.seeds) > 1 or wait in ("false", "0")):
            raise Fault("a PNG holds one picture, and is waited for", "format", fix="settings.images: 1")
        job = self.engine.submit(checked, client_of(request))
        if wait in ("false", "0"):
            said = {"id": job.id, "position": self.engine.position(job)}
            return JSONResponse(said, 202, headers={"location": f"/v1/jobs/{job.id}"})
        await self._wait(request, job)
        if job.state != "done":
            raise job.fault or Fault("was cancelled", status=409)
        self.engine.jobs.pop(job.id, None)
        if form == "png" and (made := job.images[0]) is not None:
            return Response(made.png, media_type="image/png", headers={"x-seed": str(made.seed)})
        return JSONResponse(job.result())

    async def _wait(self, request: Request, job: Job) -> None:
        """Wait for a job's end; a client takes it along when it goes."""
        job.waited_for += 1
        done, gone = asyncio.create_task(job.finished.wait()), asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            done.cancel()
            gone.cancel()
            job.waited_for -= 1
            if not job.ending:
                self.engine.cancel(job)

    async def job(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/jobs/{id}``."""
        job = self.engine.job(request.path_params["id"])
        if request.method == "DELETE":
            self.engine.cancel(job)
        return JSONResponse(job.document(self.engine.position(job)))

    async def events(self, request: Request) -> Response:
        """``GET /v1/jobs/{id}/events``."""
        return stream.events(self.engine, self.engine.job(request.path_params["id"]))

    async def healthz(self, request: Request) -> Response:
        """``GET /healthz``."""
        fine = not self.engine.stopping
        return JSONResponse({"status": "ok" if fine else "ending"}, 200 if fine else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        self.figures.loaded.set(len(self.shelf.loaded))
        return Response(self.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self, request: Request) -> Response:
        """``GET /``, ``/compare`` and ``/page/...``."""
        names = {"/": "index.html", "/compare": "compare.html"}
        path = names.get(request.url.path) or request.path_params.get("path", "")
        parts = path.split("/")
        file = PAGE.joinpath(*parts)
        known = all(_NAME.fullmatch(part) for part in parts) and file.suffix in _TYPES and file.is_file()
        if not known:
            raise Fault("there is no such page", "path", status=404)
        return FileResponse(file, media_type=_TYPES[file.suffix], headers={"cache-control": "no-cache"})


async def _gone(request: Request) -> None:
    """Return once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_of(request: Request) -> Client:
    """The client of a request: its address, and its own name in ``X-Client``."""
    address = request.client.host if request.client else ""
    return address, request.headers.get("x-client", "")[:64]


def answer(request: Request, error: Exception) -> Response:
    """The answer to a mistake, a limit, or a failure of the server."""
    if isinstance(error, Fault):
        fault = error
    elif isinstance(error, HTTPException):
        fault = Fault(error.detail, "path" if error.status_code in (404, 405) else "body", status=error.status_code)
    elif isinstance(error, LDMError):
        fault = of_error(error, "")
    else:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        fault = Fault("the server failed at this request; its log says more", status=500)
    site: Site = request.app.state.site
    more = {"retry-after": "5"} if fault.status in (429, 503) else {}
    if fault.status in (408, 413):
        more["connection"] = "close"
    return JSONResponse(site.shelf.hidden(fault).document(), fault.status, headers=more)


def application(
    urls: Sequence[str],
    catalog: Catalog,
    limits: Limits | None = None,
    *,
    token: str = "",
    names: Sequence[str] = (),
    device: str | None = None,
    precision: str = "fp32",
) -> Guard:
    """The server of some runs as an ASGI application; its ``state.site`` is a :class:`Site`."""
    limits = limits or Limits()
    shelf = Shelf(urls, catalog, memory=limits.memory, device=device, precision=precision)
    site = Site(shelf, catalog, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(site.engine.run())
        yield
        site.engine.stop()
        await work

    handlers: Any = dict.fromkeys((Fault, HTTPException, LDMError, Exception), answer)
    app = Starlette(routes=routes(site, token=bool(token)), exception_handlers=handlers, lifespan=lifespan)
    app.state.site = site
    return Guard(app, limits, site.figures, token=token, names=names)


def routes(site: Site, *, token: bool = False) -> list[Route]:
    """All routes."""
    return [
        Route("/", site.page),
        Route("/compare", site.page),
        Route("/page/{path:path}", site.page),
        Route("/healthz", site.healthz),
        Route("/metrics", site.metrics),
        Route("/v1/models", site.models),
        Route("/v1/sample", site.sample, methods=["POST"]),
        Route("/v1/jobs/{id}", site.job, methods=["GET", "DELETE"]),
        Route("/v1/jobs/{id}/events", site.events),
        *More(site.shelf, site.limits, token=token).routes(),
    ]
