"""The routes of pictures' origins, of runs in training, of blind comparisons, and the description of all."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import ldm_core
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models import progress
from ldm_plugin_serve.models.origin import origin_of
from ldm_plugin_serve.models.shelf import Shelf
from ldm_plugin_serve.models.values import sent_bytes
from ldm_plugin_serve.pairs.session import Sessions
from ldm_plugin_serve.web import body, openapi


class More:
    """See the module's docstring."""

    def __init__(self, shelf: Shelf, limits: Limits, *, token: bool) -> None:
        self.shelf, self.limits = shelf, limits
        self.described = openapi.document(limits, ldm_core.__version__, token=token)
        self.sessions = Sessions(shelf, limits)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/docs", self.docs),
            Route("/docs/style.css", self.style),
            Route("/openapi.json", self.openapi),
            Route("/v1/read", self.read, methods=["POST"]),
            Route("/v1/runs/{id}/curves", self.curves),
            Route("/v1/runs/{id}/previews", self.previews),
            Route("/v1/runs/{id}/previews/{n}", self.preview),
            Route("/v1/compare", self.begin, methods=["POST"]),
            Route("/v1/compare/{id}", self.session),
            Route("/v1/compare/{id}/pairs/{n}", self.pair),
            Route("/v1/compare/{id}/votes", self.vote, methods=["POST"]),
            Route("/v1/compare/{id}/votes.csv", self.table),
        ]

    async def openapi(self, request: Request) -> Response:
        """``GET /openapi.json``."""
        return JSONResponse(self.described)

    async def docs(self, request: Request) -> Response:
        """``GET /docs``."""
        return Response(openapi.page(self.described), media_type="text/html; charset=utf-8")

    async def style(self, request: Request) -> Response:
        """``GET /docs/style.css``."""
        return Response(openapi.STYLE, media_type="text/css; charset=utf-8")

    async def read(self, request: Request) -> Response:
        """``POST /v1/read``: a PNG as it is, as the part ``picture`` of a form, or ``{"picture": base64}``."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "image/png":
            data = await request.body()
        else:
            said = await body.read(request, self.limits)
            if isinstance(said, dict) and said.keys() == {"inputs"}:
                said = said["inputs"]  # a form
            if not isinstance(said, dict) or said.keys() != {"picture"}:
                raise Fault("expected a picture", "body", allowed=["picture"])
            data = sent_bytes(said["picture"], "picture")
        return JSONResponse(await asyncio.to_thread(origin_of, data, self.shelf, self.limits))

    async def curves(self, request: Request) -> Response:
        """``GET /v1/runs/{id}/curves``."""
        entry = await asyncio.to_thread(self.shelf.refreshed, self.shelf.get(request.path_params["id"]))
        return JSONResponse(await asyncio.to_thread(progress.curves, entry))

    async def previews(self, request: Request) -> Response:
        """``GET /v1/runs/{id}/previews``."""
        entry = self.shelf.get(request.path_params["id"])
        return JSONResponse({"previews": await asyncio.to_thread(progress.previews, entry)})

    async def preview(self, request: Request) -> Response:
        """``GET /v1/runs/{id}/previews/{n}``."""
        entry = self.shelf.get(request.path_params["id"])
        data = await asyncio.to_thread(progress.preview, entry, request.path_params["n"])
        return Response(data, media_type="image/png")

    async def begin(self, request: Request) -> Response:
        """``POST /v1/compare``."""
        said = await body.read(request, self.limits)
        made = await asyncio.to_thread(self.sessions.begin, said)
        return JSONResponse(made.document(), 201, headers={"location": f"/v1/compare/{made.id}"})

    async def session(self, request: Request) -> Response:
        """``GET /v1/compare/{id}``."""
        return JSONResponse(self.sessions.get(request.path_params["id"]).document())

    async def pair(self, request: Request) -> Response:
        """``GET /v1/compare/{id}/pairs/{n}``."""
        number = request.path_params["n"]
        if not number.isdecimal() or len(number) > 6:
            raise Fault("there is no such pair", "pair", status=404)
        session = self.sessions.get(request.path_params["id"])
        return JSONResponse(await asyncio.to_thread(session.picture_pair, int(number), self.limits))

    async def vote(self, request: Request) -> Response:
        """``POST /v1/compare/{id}/votes``."""
        session, said = self.sessions.get(request.path_params["id"]), await body.read(request, self.limits)
        if not isinstance(said, dict) or said.keys() != {"pair", "choice"}:
            raise Fault("expected a pair and a choice", "body", allowed=["pair", "choice"])
        session.vote(said["pair"], said["choice"])
        return JSONResponse(session.document())

    async def table(self, request: Request) -> Response:
        """``GET /v1/compare/{id}/votes.csv``."""
        session = self.sessions.get(request.path_params["id"])
        named = {"content-disposition": f'attachment; filename="{session.a.id}-{session.b.id}.csv"'}
        return Response(session.table(), media_type="text/csv; charset=utf-8", headers=named)
