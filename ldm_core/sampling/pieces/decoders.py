"""Another decoder of a model's latents, from a file of its own: found, compared with the first stage, and filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import unstructure
from ldm_core.contracts import Config, Decoder, Site, configs
from ldm_core.contracts.values import LatentSpec, Precision
from ldm_core.errors import CheckpointError, ComponentError, ConfigError, clean, quoted
from ldm_core.model.conformance.breaches import Named, named
from ldm_core.model.trained import load_part
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Part, Recipe
from ldm_core.recipe.sources import trained_config

_CPU = torch.device("cpu")


@attrs.frozen(eq=False)
class OtherDecoder:
    """A decoder with its name in messages, the hash of its file, and the arithmetic in which it may run."""

    module: Decoder
    part: Named
    sha256: str
    precisions: Sequence[Precision]


def decoder_metadata(
    use: str, config: object, versions: Mapping[str, str], *, first_stage: str, latent: LatentSpec, **more: object
) -> dict[str, str]:
    """The metadata of a decoder's file: the component `use` with its config, the hash of the `first_stage` behind its
    latents, these latents, and `more` that it tells, such as its steps."""
    told = {"first_stage_sha256": first_stage, "latent": _in_words(latent), **more}
    return artifacts.metadata("decoder", use, unstructure(config), versions, **told)


def _in_words(latent: LatentSpec) -> dict[str, object]:
    return {"channels": latent.channels, "stride": list(latent.stride)}


def load_decoder(
    name: str, folder: str, recipe: Recipe, first_stage: str, catalog: Catalog, device: torch.device = _CPU
) -> OtherDecoder:
    """Read the decoder called `name` in `folder`, a run's, or in the file or folder of that name; frozen. A first stage
    is a decoder too: of its own latents, and of the same latents of the stage before a training of its decoder alone.

    Raises :class:`CheckpointError` for a missing or damaged file, and for one of another first stage than that with the
    hash `first_stage` (as far as it is known), :class:`ConfigError` for other pictures, :class:`ComponentError` if its
    plugin is not installed.
    """
    url = _file_of(name, folder)
    header = artifacts.read_decoder(url)
    latent = recipe.first_stage.config.latent
    shown, channels = storage.shown(url), header.extra.get("image_channels", recipe.image_channels)
    if channels != recipe.image_channels:
        raise ConfigError(f"{shown}: makes pictures of {channels} channels, here they have {recipe.image_channels}")
    config = trained_config(header, "", {}, "sample.decoder", catalog)
    is_stage = header.kind == "first_stage"
    _require_same_latents(header, config.latent if is_stage else None, latent, first_stage)
    own = None if is_stage else latent
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=own, catalog=catalog)
    if problems := list(configs.of(Config, config).check(site)):
        raise ConfigError([f"{shown}: {line}" for line in problems])
    part = Part(kind=header.kind, use=header.use, config=config, asked=header.use)
    module = load_part(part, site, catalog, url, device)
    if not isinstance(module, Decoder) or module.latent != latent:
        raise ComponentError(f"{named(part, catalog)} does not meet the contract Decoder: it wants decode and latent")
    return OtherDecoder(module, named(part, catalog), header.sha256, configs.allowed_precisions(header.kind, config))


def _file_of(name: str, folder: str) -> str:
    """The file of a decoder: NAME.safetensors of the folder's decoders, or a place."""
    if artifacts.is_weights(name) or "://" in name:
        both = (artifacts.DECODER_FILE, artifacts.STAGE_FILE)
        held = [each for each in both if storage.exists(storage.join(name, each))]
        return artifacts.find(name, held[0] if held else artifacts.DECODER_FILE)
    there = storage.join(folder, artifacts.DECODERS) if folder else ""
    if folder and storage.exists(url := storage.join(there, f"{name}.safetensors")):
        return url
    found = storage.list_files(there) if there and storage.is_folder(there) else []
    names = [storage.base_name(each.url).removesuffix(".safetensors") for each in found]
    known = f"there are {clean(', '.join(sorted(names)), 200)}" if names else "there are none"
    where = storage.shown(there) if there else "this model's folder"
    raise CheckpointError(
        f"sample.decoder: no decoder {quoted(name, 60)} in {where} ({known}); train one, or give the path or URL of a "
        "file (./NAME for a folder here)"
    )


def _require_same_latents(
    header: artifacts.Header, own: LatentSpec | None, latent: LatentSpec, first_stage: str
) -> None:
    """Hold a decoder's file to `latent`, of the stage with the hash `first_stage`; `own`: a first stage's latents."""
    shown = storage.shown(header.url)
    if own is None:
        named, words = header.extra.get("first_stage_sha256"), header.extra.get("latent")
        stages = [str(named)] if named else []
    else:
        stages, words = [header.sha256, *artifacts.stages_of_latents(header)], _in_words(own)
    if not stages:
        raise CheckpointError(f"{shown}: does not name the first stage whose latents it decodes; train it anew")
    if first_stage and first_stage not in stages:
        fix = "train a decoder for this one"
        if own is not None:
            fix += ", as with first_stage_trainer.train=decoder"
        raise CheckpointError(
            f"{shown}: decodes the latents of another first stage (sha256 {clean(stages[-1], 12)}, here "
            f"{first_stage[:12]}); {fix}"
        )
    if words != _in_words(latent):
        raise CheckpointError(
            f"{shown}: decodes latents of {quoted(words, 80)}, here they have "
            f"{latent.channels} channels at stride {tuple(latent.stride)}"
        )
