"""Recipes shipped with the core, and recipes read from files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.contracts import configs
from ldm_core.contracts.configs import FirstStageConfig
from ldm_core.errors import ConfigError, suggest
from ldm_core.recipe.keys import OBJECTIVE, renewed, use_of

LAPTOP = "laptop"
"""The shipped recipe of a run for which the caller names none."""


def shipped() -> dict[str, str]:
    """Names of the core's own recipes -> their first comment line."""
    out = {}
    for file in resources.files("ldm_core").joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").splitlines()[0]
            out[file.name.removesuffix(".yaml")] = first.lstrip("# ")
    return dict(sorted(out.items()))


def shipped_text(name: str) -> str:
    """The YAML text of a recipe shipped with the core."""
    return resources.files("ldm_core").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def load_plain(name_or_url: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path or URL, as plain values."""
    names = shipped()
    if name_or_url in names:
        text = shipped_text(name_or_url)
    elif "/" in name_or_url or name_or_url.endswith((".yaml", ".yml")):
        text = storage.read_text(name_or_url)
    else:
        raise ConfigError(
            f"no recipe named '{name_or_url}'{suggest(name_or_url, names)} (`recipe.shipped` lists those that "
            "are shipped; or give the path or URL of a .yaml file)"
        )
    plain = documents.parse_yaml(text, name_or_url)
    if not isinstance(plain, dict):
        raise ConfigError(f"{name_or_url}: expected a mapping of settings such as 'first_stage: vq_f4'")
    return dict(renewed(plain))


def default(catalog: Catalog) -> dict[str, Any]:
    """The plain values of a run without a recipe of the caller's: `laptop`, with the installed observers that are for
    such runs by their descriptors."""
    names = sorted(entry.component.name for entry in catalog.of("observer") if entry.component.default)
    return {**load_plain(LAPTOP), "observers": [{"use": name} for name in names]}


def suited(plain: Mapping[str, object], stage: object, catalog: Catalog) -> dict[str, Any]:
    """The values of :func:`default` without their stage objective, where the caller's first stage `stage` is trained by
    another: then the stage's own is taken. Settings of the caller's go on top of what this returns.

    A stage with nothing to train needs none that is not installed.
    """
    name, named = use_of(stage), use_of(plain.get(OBJECTIVE))
    if name not in catalog.names("first_stage"):
        return dict(plain)
    entry, preset = catalog.get("first_stage", name)
    own = configs.of(FirstStageConfig, preset or entry.component.config).stage_objective
    stays = own == named or (not own and named in catalog.names("stage_objective"))
    return {key: value for key, value in plain.items() if stays or key != OBJECTIVE}
