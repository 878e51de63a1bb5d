"""The trained first stage behind a small decoder: found by its place. Only :func:`load` imports torch."""

from __future__ import annotations

from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, Site
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import StagePart
from ldm_core.recipe.sources import trained_config
from ldm_core.weights.convert import finder
from ldm_plugin_tiny_decoder.config import TrainedDecoderConfig


@attrs.frozen
class Teacher:
    """The file of a trained first stage, the hash of its content, and the part that it holds."""

    url: str
    sha256: str
    part: StagePart
    image_channels: int


def find_teacher(place: str, site: Site, *, sha256: str | None = None) -> Teacher:
    """The first stage of a run's folder or a file of weights; `sha256`, where its hash is known already."""
    catalog = site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover()
    url = finder(catalog)(place, artifacts.STAGE_FILE)
    header = artifacts.read_header(url, "first_stage", sha256=sha256)
    config = trained_config(header, "", {}, "first_stage.stage", catalog)
    if isinstance(config, TrainedDecoderConfig):
        raise CheckpointError(
            f"{storage.shown(url)}: is a small decoder's training; give the stage that it was made for"
        )
    part = StagePart(kind="first_stage", use=header.use, config=config, asked=header.use)
    return Teacher(url, header.sha256, part, int(header.extra.get("image_channels", 0)))


def teacher_of(config: TrainedDecoderConfig, site: Site) -> Teacher:
    """The stage named by `config`; ConfigError or CheckpointError where there is none, or it is another one."""
    if not config.stage:
        raise ConfigError("no trained first stage is named; give first_stage.stage=PATH_OR_URL")
    found = find_teacher(config.stage, site)
    shown, latent = storage.shown(found.url), found.part.config.latent
    if config.sha256 and found.sha256 != config.sha256:
        raise CheckpointError(
            f"{shown}: is not the first stage that was named (sha256 {found.sha256[:12]}, the recipe says "
            f"{config.sha256[:12]}); give the right file, or first_stage.sha256= to take this one"
        )
    if latent != config.latent:
        raise ConfigError(
            f"{shown}: its latents have {latent.channels} channels at stride {list(latent.stride)}; set "
            f"first_stage.channels={latent.channels} and first_stage.stride={list(latent.stride)}"
        )
    if found.image_channels not in (0, site.channels):
        raise ConfigError(
            f"{shown}: takes pictures of {found.image_channels} channels, and image_channels is {site.channels}"
        )
    return found


def load(config: TrainedDecoderConfig, site: Site) -> FirstStage:
    """The trained stage on the CPU, in eval mode and frozen."""
    import torch

    from ldm_core.model.trained import load_part

    found = teacher_of(config, site)
    catalog = site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover()
    place = Site(size=site.size, channels=site.channels, catalog=catalog)
    stage: Any = load_part(found.part, place, catalog, found.url, torch.device("cpu"))
    return stage  # type: ignore[no-any-return]
