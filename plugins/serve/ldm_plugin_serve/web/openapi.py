"""The description of the interface: OpenAPI 3.1, and a page of it without anything from outside."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_plugin_serve.limits import Limits

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; padding: .75rem; background: #8881; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8885; padding-top: 1rem; } b { font-weight: 600; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
:root { color-scheme: light dark; } a { color: LinkText; }
"""
"""The style sheet of the page."""


_FILE = Path(__file__).with_name("openapi.json")


def document(limits: Limits, version: str, *, token: bool) -> dict[str, Any]:
    """The OpenAPI document, with the limits of this server."""
    made: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    made["info"]["version"] = version
    settings = made["components"]["schemas"]["Settings"]["properties"]
    settings["steps"]["maximum"], settings["images"]["maximum"] = limits.steps, limits.images
    settings["negative"]["maxLength"] = limits.text
    if token:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


def page(made: Mapping[str, Any]) -> str:
    """The document for readers, as HTML."""
    rows = "\n".join(_rows(made))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>ldm-core: the interface</title>\n"
        '<link rel="stylesheet" href="/docs/style.css">\n</head>\n<body>\n<main>\n'
        '<h1>The interface for programs</h1>\n<p>Also as <a href="/openapi.json">openapi.json</a>. Errors are '
        "<code>"
        "{&quot;error&quot;: {&quot;message&quot;, &quot;where&quot;, &quot;allowed&quot;, &quot;fix&quot;}}</code>."
        f"</p>\n{rows}\n</main>\n</body>\n</html>\n"
    )


def _rows(made: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in made["paths"].items():
        for method, route in methods.items():
            yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(route['summary'])}.</p>"
            if "description" in route:
                yield f"<p>{html.escape(route['description'])}</p>"
            for kind, content in route.get("requestBody", {}).get("content", {}).items():
                yield f"<p>Body, <code>{kind}</code>: {_shown(content['schema'])}</p>"
            for status, answer in route["responses"].items():
                kinds = ", ".join(f"<code>{kind}</code> {_shown(c['schema'])}" for kind, c in answer["content"].items())
                yield f"<p><b>{status}</b> {html.escape(answer['description'])} {kinds}</p>"
    yield "<h2>Schemas</h2>"
    for name, schema in made["components"]["schemas"].items():
        text = html.escape(json.dumps(schema, indent=1, ensure_ascii=False))
        yield f'<h3 id="{name}">{name}</h3><pre tabindex="0">{text}</pre>'


def _shown(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>' if name else ""
