"""``ldm-run new conditioner NAME``: a small plugin distribution that passes its own tests."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from string import Template
from typing import Literal

import attrs

from ldm_core.cli.command import argument, command, option

TEMPLATES = "templates/conditioner"
_PACKAGE = "package"  # the folder of the templates that takes the package's name


@attrs.frozen(kw_only=True)
class NewOptions:
    """A kind, a name and a place."""

    kind: Literal["conditioner"] = argument("KIND", "What it brings: conditioner.")
    name: str = argument("NAME", "Its name in recipes: lower-case letters, digits and underscores.")
    folder: str = option(
        ".", "Where to make it.", flags=["--dir"], metavar="FOLDER", otherwise="here", completes="folder"
    )


@command(NewOptions, examples=["ldm-run new conditioner colour_palette"])
def new(options: NewOptions) -> int:
    """Write a small distribution with a working component NAME, to start from. It passes its own tests."""
    from ldm_core import storage
    from ldm_core.cli.output import PATH, say

    name = options.name
    files = conditioner_files(name)
    root = storage.join(options.folder, distribution(name))
    write(files, root)
    say("\n".join(storage.join(root, path) for path in files), longest=PATH)
    say(
        f"\nnext:\n  pip install -e {root}\n  python -m pytest {root}\n  ldm-run show {name}\n"
        f"then edit {package(name)}/conditioner.py: what it reads, and what it makes of it"
    )
    return 0


def distribution(name: str) -> str:
    """The distribution (and folder) of a component: ``ldm-plugin-colour-palette``."""
    return "ldm-plugin-" + name.replace("_", "-")


def package(name: str) -> str:
    """The import package of a component: ``ldm_plugin_colour_palette``."""
    return "ldm_plugin_" + name


def check_name(name: str) -> None:
    """Raise :class:`ldm_core.errors.ConfigError` where `name` is no good name, or one that is taken."""
    from ldm_core.catalog import Catalog
    from ldm_core.catalog.first_party import FIRST_PARTY
    from ldm_core.errors import ConfigError

    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"'{name}' is no name for a component: lower-case letters, digits and single underscores, beginning with a "
            "letter, such as colour_palette"
        )
    if name in Catalog.discover().names("conditioner") or ("conditioner", name) in FIRST_PARTY:
        raise ConfigError(
            f"there is a conditioner named '{name}' already (see `ldm-run show {name}`); choose another name"
        )


def conditioner_files(name: str) -> dict[str, str]:
    """Path within the distribution -> text. :class:`ldm_core.errors.ConfigError` for a name that will not do."""
    check_name(name)
    words = {
        "name": name,
        "title": name.replace("_", " "),
        "distribution": distribution(name),
        "package": package(name),
        "camel": "".join(word.capitalize() for word in name.split("_")),
    }
    files: dict[str, str] = {}
    root = resources.files("ldm_core.cli").joinpath(*TEMPLATES.split("/"))
    for path, text in sorted(_read(root)):
        target = path.removesuffix(".tmpl").replace(f"{_PACKAGE}/", f"{package(name)}/").replace("_NAME_", f"_{name}_")
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
