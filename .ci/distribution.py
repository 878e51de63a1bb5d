"""What a distribution says of itself once it is built: the version, and its README as the page of an index shows it.

hatchling loads this file by the path in each `pyproject.toml`. Version and address come from
`ldm_core/catalog/release.py`. A README's relative links lead nowhere on an index's page: they become addresses below
the project's, or plain text while it has none. A source archive is built from alone, so its `pyproject.toml` holds all
of this as any other project's does.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parents[1]
RELEASE = ROOT / "ldm_core" / "catalog" / "release.py"
PROJECT, README = "pyproject.toml", "README.md"

_BLOCK = r"^(?P<fence>```+|~~~+)[\s\S]*?^(?P=fence)|^(?: {4}|\t).*$"
_SPAN = r"(?P<ticks>`+)(?!`)[\s\S]*?(?<!`)(?P=ticks)(?!`)"
_TEXT = r"(?P<text>(?:!\[[^\]]*\]\([^)]*\)|`[^`]*`|[^\[\]`])*)"
_LINK = re.compile(rf"(?P<code>{_BLOCK}|{_SPAN})|(?P<picture>!?)\[{_TEXT}\]\((?P<target>[^)\s]+)\)", re.MULTILINE)
"""A link or a picture of Markdown, or code, where brackets are none. A link's text may hold code and a picture."""
_DYNAMIC = re.compile(r"^dynamic = .*\n", re.MULTILINE)
_HOOK = re.compile(r"^\[tool\.hatch\.(?:metadata|build\.targets\.sdist)\.hooks\.custom\]\npath = .*\n\n?", re.MULTILINE)


def release() -> tuple[str, str]:
    """The version and the project's address, from their file's text: it is not imported, as nothing is installed yet.

    Errors: ValueError, if either is not there as a plain string.
    """
    found = dict(re.findall(r'^(\w+) = "([^"\n]*)"$', RELEASE.read_text(encoding="utf-8"), re.MULTILINE))
    missing = {"VERSION", "PROJECT_URL"} - found.keys()
    if missing:
        raise ValueError(f"{RELEASE}: no {' and no '.join(sorted(missing))} as a plain string")
    return found["VERSION"], found["PROJECT_URL"].rstrip("/")


def index_text(text: str, address: Callable[[str, str], str | None]) -> str:
    """A README for the page of an index: each relative link by `address(target, "blob" or "raw")`; where that is None,
    a link is its text and a picture its description, in italics."""

    def linked(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        picture, target = match["picture"], match["target"]
        words = match["text"] if picture else index_text(match["text"], address)
        if re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
            return f"{picture}[{words}]({target})"
        whole = address(target, "raw" if picture else "blob")
        if whole is not None:
            return f"{picture}[{words}]({whole})"
        return f"*{words}*" if picture and words else words

    return _LINK.sub(linked, text)


def fields(folder: Path) -> dict[str, Any]:
    """The fields of `project` that are made when the distribution of a folder is built: version, readme and urls."""
    version, url = release()
    place = folder.resolve().relative_to(ROOT.resolve()).as_posix()

    def address(target: str, kind: str) -> str | None:
        path, mark, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join("/", place, path or README))
        return f"{url}/{kind}/v{version}{file}{mark}{anchor}" if url else None

    text = index_text((folder / README).read_text(encoding="utf-8"), address)
    urls = {"Repository": url, "Documentation": f"{url}/tree/v{version}/docs"} if url else {}
    if changes := address("/CHANGELOG.md", "blob"):
        urls["Changes"] = changes
    return {"version": version, "readme": {"content-type": "text/markdown", "text": text}, "urls": urls}


def static(text: str, made: Mapping[str, Any]) -> str:
    """A `pyproject.toml` that needs nothing beside itself and the README: with the fields of `made`, without hooks.

    Errors: ValueError, if the text has another form than those of this repository.
    """
    known = f'version = "{made["version"]}"\nreadme = "{README}"\n'
    text = _HOOK.sub("", _DYNAMIC.sub(known, text, count=1))
    if urls := made["urls"]:
        text += "\n[project.urls]\n" + "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    data = tomllib.loads(text)
    hatch = data["tool"]["hatch"]
    if "dynamic" in data["project"] or "metadata" in hatch or "hooks" in hatch["build"]["targets"].get("sdist", {}):
        raise ValueError(f"{PROJECT}: `dynamic` and the hooks of hatch are to be written as in the other distributions")
    return text


class Metadata(MetadataHookInterface):
    """The fields that `dynamic` names."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set them."""
        metadata.update(fields(Path(self.root)))


class Sdist(BuildHookInterface):
    """A source archive that builds where nothing else of the repository is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the static metadata and the README of an index's page in the places of the repository's."""
        made, folder = fields(Path(self.root)), Path(self.root)
        self._made = Path(tempfile.mkdtemp())
        text = static((folder / PROJECT).read_text(encoding="utf-8"), made)
        (self._made / PROJECT).write_text(text, encoding="utf-8")
        (self._made / README).write_text(made["readme"]["text"], encoding="utf-8")
        included = build_data["force_include"]
        included.pop(str(folder / PROJECT), None)
        included |= {str(self._made / name): name for name in (PROJECT, README)}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written for it."""
        shutil.rmtree(self._made)
