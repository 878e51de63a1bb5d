"""The trained first stage behind a small decoder: found by its place. Only :func:`load` imports torch."""

from __future__ import annotations

from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, LatentSpec, Site
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import StagePart
from ldm_core.recipe.sources import trained_config
from ldm_core.weights.convert import finder

OWN = "tiny_decoder"
"""The first stage of a decoder's training."""


@attrs.frozen
class Teacher:
    """The file of a trained first stage, the hash of its content, and its part."""

    url: str
    sha256: str
    part: StagePart
    image_channels: int


def find_teacher(place: str, site: Site, *, sha256: str | None = None) -> Teacher:
    """The first stage of a run's folder or a file of weights; `sha256`: its hash, if it is known."""
    catalog = site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover()
    url = finder(catalog)(place, artifacts.STAGE_FILE)
    header = artifacts.read_header(url, "first_stage", sha256=sha256)
    config = trained_config(header, "", {}, "first_stage.stage", catalog)
    if header.use == OWN:
        raise CheckpointError(
            f"{storage.shown(url)}: is a small decoder's training; give the stage that it was made for"
        )
    part = StagePart(kind="first_stage", use=header.use, config=config, asked=header.use)
    return Teacher(url, header.sha256, part, int(header.extra.get("image_channels", 0)))


def teacher_of(place: str, sha256: str, latent: LatentSpec, site: Site) -> Teacher:
    """The stage at `place`, of these latents, with the hash `sha256` if one is given; ConfigError or CheckpointError
    without one, or for another one."""
    if not place:
        raise ConfigError("no trained first stage is named; give first_stage.stage=PATH_OR_URL")
    found = find_teacher(place, site)
    shown, own = storage.shown(found.url), found.part.config.latent
    if sha256 and found.sha256 != sha256:
        raise CheckpointError(
            f"{shown}: is not the first stage that was named (sha256 {found.sha256[:12]}, the recipe says "
            f"{sha256[:12]}); give the right file, or first_stage.sha256= to take this one"
        )
    if own != latent:
        raise ConfigError(
            f"{shown}: its latents have {own.channels} channels at stride {list(own.stride)}; set "
            f"first_stage.channels={own.channels} and first_stage.stride={list(own.stride)}"
        )
    if found.image_channels not in (0, site.channels):
        raise ConfigError(
            f"{shown}: takes pictures of {found.image_channels} channels, and image_channels is {site.channels}"
        )
    return found


def load(found: Teacher, site: Site) -> FirstStage:
    """The trained stage on the CPU, in eval mode and frozen."""
    import torch

    from ldm_core.model.trained import load_part

    catalog = site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover()
    place = Site(size=site.size, channels=site.channels, catalog=catalog)
    stage: Any = load_part(found.part, place, catalog, found.url, torch.device("cpu"))
    return stage  # type: ignore[no-any-return]
