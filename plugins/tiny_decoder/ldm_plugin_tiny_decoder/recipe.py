"""The recipe of a small decoder's training, and its file, made of the training's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import unstructure
from ldm_core.contracts import Site
from ldm_core.data.records.guess import guess_reader, kept_settings
from ldm_core.errors import CheckpointError, ConfigError, quoted
from ldm_core.recipe import artifacts, keys, shipped
from ldm_core.recipe.recipe import Recipe, versions
from ldm_core.sampling.pieces.decoders import decoder_metadata
from ldm_plugin_tiny_decoder.config import SHAPE, TinyDecoderConfig
from ldm_plugin_tiny_decoder.teacher import find_teacher

if TYPE_CHECKING:
    from ldm_plugin_tiny_decoder.options import DecoderOptions

RECIPE = "recipe.yaml"
KEPT = ("image_size", "image_channels", "seed", "denoiser", "dataset", "data", "storage")
"""Keys of the run's recipe, kept for the training."""
TRAINER: Mapping[str, Any] = {
    "images_per_step": 16,
    "lr": 1e-3,
    "betas": [0.9, 0.99],
    "schedule": "cosine",
    "warmup_steps": 50,
    "log_every": 50,
    "statistics_images": 1,
}
"""The settings of the training, below those of the user."""
_DECODER = "decoder."


def require_name(name: str) -> None:
    """ConfigError unless it can be a file's name, and no place."""
    if not re.fullmatch(r"\w[\w-]{0,63}", name):
        raise ConfigError(f"name: expected letters, digits, _ and -, got {quoted(name, 60)}")


def default_out(run: str, name: str) -> str:
    """The folder beside the run's, or beside the file."""
    return f"{run.rstrip('/').removesuffix('.safetensors')}-{name}"


def recipe_of(options: DecoderOptions, catalog: Catalog) -> dict[str, Any]:
    """The plain recipe: the run's pictures and sizes, and the training of a small decoder."""
    found = find_teacher(options.run, Site(size=(32, 32), catalog=catalog))
    latent = found.part.config.latent
    header = artifacts.read_header(found.url, "first_stage", sha256=found.sha256)
    folder = options.run if storage.is_folder(options.run) else storage.parent(options.run)
    url = storage.join(folder, RECIPE)
    own = shipped.load_plain(url) if storage.exists(url) else {}
    plain: dict[str, Any] = {key: own[key] for key in KEPT if key in own}
    plain.setdefault("image_size", header.extra.get("image_size"))
    plain.setdefault("image_channels", header.extra.get("image_channels", 3))
    if options.data:
        use = guess_reader(options.data, catalog)
        plain["dataset"] = {**kept_settings(plain.get("dataset"), use), "use": use, "url": options.data}
    plain["first_stage"] = {
        "use": "tiny_decoder",
        "stage": found.url,
        "channels": latent.channels,
        "stride": list(latent.stride),
    }
    plain["stage_objective"] = {"use": "decoder_pixels", "target": options.target}
    plain["first_stage_trainer"] = {**TRAINER, "steps": options.steps}
    if "curves" in catalog.names("observer"):
        plain["observers"] = ["curves"]
    apply_overrides(plain, options.settings, keys.SINGLE)
    if "dataset" not in plain:
        raise ConfigError(f"{storage.shown(folder)}: holds no {RECIPE} that names pictures; give them by `dataset`")
    return plain


@attrs.frozen
class Made:
    """A finished decoder: its file, and its copy among the run's decoders ("" without one)."""

    url: str
    beside: str
    name: str
    run: str

    def lines(self, numbers: Mapping[str, float]) -> list[str]:
        """The report for a reader."""
        scores = ", ".join(f"{key} {numbers[key]:.4g}" for key in ("psnr", "ssim") if key in numbers)
        said = [f"decoder: {self.url}" + (f" ({scores} beside held-out pictures)" if scores else "")]
        if self.beside:
            said.append(f"beside the run: {self.beside}; use it by sample.decoder={self.name}")
        return said


def export(recipe: Recipe, out: str, run: str, name: str, catalog: Catalog) -> Made:
    """Write ``decoder.safetensors`` into the training's folder `out`, and a copy among the decoders of the folder
    `run`."""
    from safetensors.torch import save

    from ldm_core.model.fill import tensors_of

    source = storage.join(out, artifacts.STAGE_FILE)
    header = artifacts.read_header(source, "first_stage")
    config: Any = recipe.first_stage.config
    tensors = tensors_of(source)
    shape = TinyDecoderConfig(**{key: getattr(config, key) for key in SHAPE})
    objective = unstructure(recipe.stage_objective.config)
    meta = decoder_metadata(
        "tiny",
        shape,
        versions(recipe, catalog),
        first_stage=config.sha256,
        latent=config.latent,
        image_channels=recipe.image_channels,
        identity=str(header.extra.get("identity", "")),
        steps=header.extra.get("steps"),
        target=objective.get("target", "pictures"),
        numbers=header.extra.get("numbers", {}),
    )
    own = {key.removeprefix(_DECODER): value for key, value in tensors.items() if key.startswith(_DECODER)}
    file = save(own, metadata=meta)
    url = storage.join(out, artifacts.DECODER_FILE)
    _write(url, file)
    beside = ""
    if storage.is_folder(run) and artifacts.is_native(run):
        beside = storage.join(run, artifacts.DECODERS, f"{name}.safetensors")
        _write(beside, file)
    return Made(url, beside, name, run)


def _write(url: str, file: bytes) -> None:
    """Write a decoder's file, in the place of an older decoder alone."""
    if storage.exists(url):
        try:
            artifacts.read_header(url, "decoder", sha256="unread")
        except CheckpointError as error:
            raise ConfigError(f"{storage.shown(url)}: is there, and no decoder; give another name") from error
    storage.make_folder(storage.parent(url))
    storage.atomic_write(url, file)
