"""``ldm-run new KIND NAME``: a small plugin distribution that passes its own tests."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Literal

import attrs

from ldm_core.cli.declaration import argument, command, option

Kind = Literal["conditioner", "sampler", "denoiser", "first_stage", "guidance", "metric", "observer", "command"]
TRIES: Mapping[str, str] = {
    "sampler": "ldm-run sample runs/demo --sampler $name --prompt 'a red circle'",
    "denoiser": "ldm-run --denoiser $name --cond none",
    "first_stage": "ldm-run --first-stage $name --cond none",
    "guidance": "ldm-run sample runs/demo --guidance $name --prompt 'a red circle'",
    "metric": "ldm-run evaluate runs/demo --metrics $name --images 16",
    "observer": "ldm-run observers=[$name]",
    "command": "ldm-run $name --help",
}
"""A command that uses the new part, for its README; the conditioner's README has its own."""
_FOLDERS = {"package/": "$package/", "_github/": ".github/"}
"""Folders of the templates -> of the distribution. A wheel may leave hidden ones out."""


@attrs.frozen(kw_only=True)
class NewOptions:
    """A kind, a name and a place."""

    kind: Kind = argument(  # noqa: RUF009
        "KIND", "conditioner, sampler, denoiser, first_stage, guidance, metric, observer or command."
    )
    name: str = argument("NAME", "Its name in recipes: lower-case letters, digits and underscores.")
    folder: str = option(
        ".", "Where to make it.", flags=["--dir"], metavar="FOLDER", otherwise="here", completes="folder"
    )


@command(NewOptions, examples=["ldm-run new conditioner colour_palette", "ldm-run new sampler my_steps --dir plugins"])
def new(options: NewOptions) -> int:
    """Write a small distribution with a working component NAME, to start from. It passes its own tests."""
    from ldm_core import storage
    from ldm_core.cli.output import PATH, say

    name = options.name
    files = plugin_files(options.kind, name)
    root = storage.join(options.folder, distribution(name))
    write(files, root)
    say("\n".join(storage.join(root, path) for path in files), longest=PATH)
    say(
        f"\nnext:\n  pip install -e '{root}[testing]'\n  python -m pytest {root}\n  ldm-run show {name}\n"
        f"then edit {package(name)}/{options.kind}.py"
    )
    return 0


def distribution(name: str) -> str:
    """The distribution (and folder) of a component: ``ldm-plugin-colour-palette``."""
    return "ldm-plugin-" + name.replace("_", "-")


def package(name: str) -> str:
    """The import package of a component: ``ldm_plugin_colour_palette``."""
    return "ldm_plugin_" + name


def check_name(kind: str, name: str) -> None:
    """Raise :class:`ldm_core.errors.ConfigError` where `name` is no good name, or one that is taken."""
    from ldm_core.catalog import Catalog
    from ldm_core.catalog.first_party import FIRST_PARTY
    from ldm_core.errors import ConfigError

    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"'{name}' is no name for a component: lower-case letters, digits and single underscores, beginning with a "
            "letter, and no word of Python's own, such as colour_palette"
        )
    words = kind.replace("_", " ")
    if name in Catalog.discover().names(kind) or (kind, name) in FIRST_PARTY:
        raise ConfigError(f"there is a {words} named '{name}' already (see `ldm-run show {name}`); choose another name")


def plugin_files(kind: str, name: str) -> dict[str, str]:
    """Path within the distribution -> text. :class:`ldm_core.errors.ConfigError` for a name that will not do."""
    check_name(kind, name)
    words = {
        "name": name,
        "title": name.replace("_", " "),
        "distribution": distribution(name),
        "package": package(name),
        "camel": "".join(word.capitalize() for word in name.split("_")),
        "module": kind,
        "words": kind.replace("_", " "),
    }
    words["try"] = Template(TRIES.get(kind, "")).substitute(words)
    files: dict[str, str] = {}
    root = resources.files("ldm_core.cli").joinpath("templates")
    texts = dict([*_read(root.joinpath("every_kind")), *_read(root.joinpath(kind))])
    for path, text in sorted(texts.items()):
        target = path.removesuffix(".tmpl").replace("_NAME_", f"_{name}_")
        for folder, its in _FOLDERS.items():
            target = target.replace(folder, Template(its).substitute(words))
        files[target] = Template(text).substitute(words)
    return files


def _read(folder: resources.abc.Traversable, prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _read(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".tmpl"):
            found.append((prefix + item.name, item.read_text(encoding="utf-8")))
    return found


def write(files: dict[str, str], root: str) -> None:
    """Write all files under a folder that must not be there yet (ConfigError)."""
    from ldm_core import storage
    from ldm_core.errors import ConfigError

    if storage.exists(root):
        raise ConfigError(f"{root} is there already; remove it, or choose another place with --dir")
    for path, text in files.items():
        url = storage.join(root, path)
        storage.make_folder(storage.parent(url))
        storage.atomic_write(url, text)
