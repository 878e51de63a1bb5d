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
    """Read the decoder called `name` in `folder`, a run's, or in the file or folder of that name; frozen.

    Raises :class:`CheckpointError` for a missing or damaged file, and for one of another first stage than that with the
    hash `first_stage` (as far as it is known), :class:`ConfigError` for other pictures, :class:`ComponentError` if its
    plugin is not installed.
    """
    url = _file_of(name, folder)
    header = artifacts.read_header(url, "decoder")
    latent = recipe.first_stage.config.latent
    _require_same_latents(header, latent, first_stage)
    shown, channels = storage.shown(url), header.extra.get("image_channels", recipe.image_channels)
    if channels != recipe.image_channels:
        raise ConfigError(f"{shown}: makes pictures of {channels} channels, here they have {recipe.image_channels}")
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=latent, catalog=catalog)
    config = trained_config(header, "", {}, "sample.decoder", catalog)
    if problems := list(configs.of(Config, config).check(site)):
        raise ConfigError([f"{shown}: {line}" for line in problems])
    part = Part(kind="decoder", use=header.use, config=config, asked=header.use)
    module = load_part(part, site, catalog, url, device)
    if not isinstance(module, Decoder) or module.latent != latent:
        raise ComponentError(f"{named(part, catalog)} does not meet the contract Decoder: it wants decode and latent")
    return OtherDecoder(module, named(part, catalog), header.sha256, configs.allowed_precisions("decoder", config))


def _file_of(name: str, folder: str) -> str:
    """The file of a decoder: NAME.safetensors of the folder's decoders, or a place."""
    if artifacts.is_weights(name) or "://" in name:
        return artifacts.find(name, artifacts.DECODER_FILE)
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


def _require_same_latents(header: artifacts.Header, latent: LatentSpec, first_stage: str) -> None:
    shown, own = storage.shown(header.url), header.extra.get("first_stage_sha256")
    if not own:
        raise CheckpointError(f"{shown}: does not name the first stage whose latents it decodes; train it anew")
    if first_stage and own != first_stage:
        raise CheckpointError(
            f"{shown}: decodes the latents of another first stage (sha256 {clean(own, 12)}, here {first_stage[:12]}); "
            "train a decoder for this one"
        )
    if header.extra.get("latent") != _in_words(latent):
        raise CheckpointError(
            f"{shown}: decodes latents of {quoted(header.extra.get('latent'), 80)}, here they have "
            f"{latent.channels} channels at stride {tuple(latent.stride)}"
        )
