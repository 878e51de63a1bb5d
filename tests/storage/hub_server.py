"""A small Hub on this machine, for huggingface_hub's own client: repositories, revisions, files, tokens, commits.

Answers are those of the Hub's HTTP API as far as the client asks for them. :attr:`HubServer.fail` answers chosen
requests otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import pytest


@attrs.define
class Repository:
    """`revisions`: name -> path -> bytes. `token`: what a private one asks for. `gated`: files need consent."""

    revisions: dict[str, dict[str, bytes]]
    token: str = ""
    gated: bool = False
    commits: list[dict[str, Any]] = attrs.field(factory=list)


@attrs.define
class Failure:
    """An answer in place of the right one: for how many requests that match."""

    matches: Callable[[str, str], bool]
    status: int
    left: int
    headers: dict[str, str]
    cut: bool = False
    """The answer is right, and ends in the middle of the body."""


class HubServer:
    """See the module; ``repositories`` by (``models`` or ``datasets``, ``OWNER/NAME``)."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Method, target and the header Authorization of each request."""
        self.ranges: list[str] = []
        self.failures: list[Failure] = []
        self.writer = ""
        """Token that may write; "" for any."""
        self.large = 1 << 16
        """Bytes from which a file goes to the large files' storage."""
        self.uploads: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "models", **more: Any) -> Repository:
        """A repository with `files` on its main branch."""
        made = Repository({"main": files, **more.pop("revisions", {})}, **more)
        self.repositories[kind, name] = made
        return made

    def fail(
        self,
        path: str,
        status: int,
        *,
        times: int = 1,
        method: str = "",
        cut: bool = False,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Answer requests whose target has `path` in it with `status`."""
        said = {k.replace("_", "-"): v for k, v in headers.items()}
        self.failures.append(Failure(lambda m, t: path in t and method in ("", m), status, times, said, cut))

    def stop(self) -> None:
        """End the thread."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)


def oid_of(data: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms behind its head, on a connection that stays

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    # ------------------------------------------------------------------------------------------------ answers

    def _answer(self, method: str) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((method, self.path, self.headers.get("Authorization", "")))
        self._cut = False
        for each in self.hub.failures:
            if each.left and each.matches(method, self.path):
                each.left -= 1
                if each.cut:
                    self._cut = True
                    break
                return self._send(each.status, b'{"error": "as the test says"}', **each.headers)
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "repos"]:
            return self._create()
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts[0] == "api":
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        if parts[0] == "lfs":
            self.hub.uploads[parts[1]] = self._body
            return self._send(200, b"")
        kind, rest = (parts[0], parts[1:]) if parts[0] == "datasets" else ("models", parts)
        name = "/".join(rest[:2])
        if name.endswith(".git"):
            return self._lfs()
        if rest[2:3] == ["resolve"]:
            return self._file(kind, name, rest[3:])
        self._send(404, b"{}")

    def _repository(self, kind: str, name: str) -> Repository | None:
        """The repository, if this request may see it; else it is answered as the Hub does."""
        found = self.hub.repositories.get((kind, name))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == "hf_expired":
            self._send(401, b"{}", **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif found is None or (found.token and token != found.token):
            self._send(404 if token else 401, b"{}", **{"X-Error-Code": "RepoNotFound"})
        else:
            return found
        return None

    def _files(self, repository: Repository, revision: str) -> dict[str, bytes] | None:
        if revision not in repository.revisions:
            self._send(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        return repository.revisions.get(revision)

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        if (repository := self._repository(kind, name)) is None:
            return None
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        if what in ("preupload", "commit"):
            return self._write(repository, what)
        if (files := self._files(repository, revision)) is None:
            return None
        if what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
            return self._tree(files, "/".join(rest[2:]), recursive)
        if what == "paths-info":
            asked = parse_qs(self._body.decode()).get("paths", []) or json.loads(self._body)["paths"]
            return self._json([entry for path in asked if (entry := _entry(files, path))])
        return self._json({"id": name, "sha": hashlib.sha1(revision.encode()).hexdigest(), "siblings": [], "tags": []})

    def _tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [path.removeprefix(prefix) for path in files if path.startswith(prefix)]
        if not inside and folder:
            return self._send(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        names = {"/".join(p.split("/")[: i + 1]) for p in inside for i in range(p.count("/") + 1)}
        shown = sorted(name for name in names if recursive or "/" not in name)
        return self._json([_entry(files, prefix + name) for name in shown])

    def _file(self, kind: str, name: str, rest: list[str]) -> None:
        if (repository := self._repository(kind, name)) is None:
            return None
        if (files := self._files(repository, rest[0])) is None:
            return None
        path = "/".join(rest[1:])
        if path not in files:
            return self._send(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        if repository.gated:
            return self._send(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        data, asked = files[path], self.headers.get("Range", "")
        mark = {"ETag": f'"{oid_of(data)}"'}
        if not asked:
            return self._send(200, data, **mark)
        self.hub.ranges.append(asked)
        begin, _, end = asked.removeprefix("bytes=").partition("-")
        start, stop = int(begin), min(int(end) + 1 if end else len(data), len(data))
        if start >= len(data):
            return self._send(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
        return self._send(206, data[start:stop], **mark, **{"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    # ------------------------------------------------------------------------------------------------ writing

    def _may_write(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or token == "hf_expired":
            self._send(401, b"{}", **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.hub.writer and token != self.hub.writer:
            self._send(403, b'{"error": "You do not have the rights to create a model under this namespace"}')
        else:
            return True
        return False

    def _create(self) -> None:
        if not self._may_write():
            return None
        asked = json.loads(self._body)
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'me'}/{asked['name']}"
        if (kind, name) in self.hub.repositories:
            return self._send(409, b'{"error": "You already created this model repo"}')
        private = asked.get("private") or asked.get("visibility") == "private"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") if private else ""
        self.hub.repositories[kind, name] = Repository({"main": {}}, token)
        return self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _write(self, repository: Repository, what: str) -> None:
        if not self._may_write():
            return None
        files = repository.revisions["main"]
        if what == "preupload":
            listed = json.loads(self._body)["files"]
            said = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= self.hub.large else "regular",
                    "shouldIgnore": False,
                    "oid": oid_of(files[each["path"]]) if each["path"] in files else None,
                }
                for each in listed
            ]
            return self._json({"files": said})
        lines = [json.loads(line) for line in self._body.splitlines()]
        repository.commits.append(lines[0]["value"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        oid = hashlib.sha1(self._body).hexdigest()
        name = "/".join(self.path.split("/")[3:5])
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _lfs(self) -> None:
        if not self._may_write():
            return None
        asked = json.loads(self._body)
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}} for each in asked["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self._cut else body)
        if self._cut:
            self.close_connection = True


def _entry(files: dict[str, bytes], path: str) -> dict[str, Any] | None:
    if path in files:
        return {"type": "file", "path": path, "size": len(files[path]), "oid": oid_of(files[path])}
    if any(each.startswith(f"{path}/") for each in files):
        return {"type": "directory", "path": path, "oid": "0" * 40}
    return None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on this machine in the place of the real one, and nobody logged in."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import get_session

    served = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in ("huggingface_hub.file_download", "huggingface_hub.hf_api"):
        monkeypatch.setattr(f"{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(f"{module}.ENDPOINT", served.url, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    get_session()
    yield served
    served.stop()
