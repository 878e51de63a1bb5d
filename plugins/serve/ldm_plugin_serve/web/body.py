"""The body of a request: JSON, or a form with a part ``request`` of JSON and files for its inputs."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from ldm_core.config.documents import parse_json
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.limits import Limits

_MOST_PARTS = 32
PART = "request"
"""The part of a form with the JSON."""


async def read(request: Request, limits: Limits) -> Any:
    """The request as plain values; files of a form are bytes under ``inputs``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await plain(await request.body())
    if kind == "multipart/form-data":
        return await _form(request, limits)
    allowed = ["application/json", "multipart/form-data"]
    raise Fault("expected JSON or a form", "Content-Type", status=415, allowed=allowed)


async def plain(data: bytes | str) -> Any:
    """JSON as plain values, within the limits of the library's own reader; read in a thread."""
    try:
        return await asyncio.to_thread(parse_json, data, "body", _Unreadable)
    except _Unreadable as error:
        raise Fault(str(error), "body", status=400) from None


class _Unreadable(Exception):
    """Unreadable JSON."""


async def _form(request: Request, limits: Limits) -> Any:
    most = max(limits.body, 1)
    async with _opened(request, most) as form:
        said, files = form.get(PART, "{}"), dict[str, bytes]()
        if not isinstance(said, str):
            said = await said.read()
        for key, value in form.multi_items():
            if key == PART:
                continue
            name = key.removeprefix("inputs.")
            if name in files:
                raise Fault("comes twice", f"inputs.{name}", status=400)
            files[name] = value.encode() if isinstance(value, str) else await value.read()
    body = await plain(said)
    if isinstance(body, dict) and files:
        inputs = body.setdefault("inputs", {})
        if not isinstance(inputs, dict):
            raise Fault("expected an object of keys and values", "inputs")
        if twice := [name for name in files if name in inputs]:
            raise Fault("is given twice, in the JSON and as a file", f"inputs.{twice[0]}")
        inputs |= files
    return body


def _opened(request: Request, most: int) -> Any:
    return request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS, max_part_size=most)
