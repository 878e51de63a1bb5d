"""Weights in another format: a codec's files, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.contracts.configs import CodecConfig, ConditionerConfig, of
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import ConfigError, StorageError
from ldm_core.recipe.recipe import Recipe
from ldm_core.weights.codecs import make_codec
from ldm_core.weights.complete import recipe_of

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Types of stored weights, and torch's word for them."""
_FIXED = ("latent_mean", "latent_std")
"""Scale of a first stage's latents: it keeps its precision in every type of number."""


def complete(weights: ModelWeights, catalog: Catalog) -> ModelWeights:
    """`weights` with a recipe of every field of every part, ready for a codec to write.

    A conditioner with named tokenizer files, and weights without a tokenizer, gets their contents: the written files
    need those no more. Raises the errors of reading them.
    """
    recipe = recipe_of(weights, catalog)
    if weights.model is not None:
        weights = attrs.evolve(weights, model={**weights.model, **_named_files(weights, recipe, catalog)})
    return attrs.evolve(weights, recipe=recipe.carried())


def _named_files(weights: ModelWeights, recipe: Recipe, catalog: Catalog) -> dict[str, Tensor]:
    """The extra state of conditioners without theirs but with the files for it, by its name in a model."""
    from ldm_core.model.fill import unfilled
    from ldm_core.model.parts import make

    found: dict[str, Tensor] = {}
    latent = weights.latent or recipe.first_stage.config.latent
    for part in recipe.conditioners:
        state = (weights.model or {}).get(key := f"conditioners.{part.name}._extra_state")
        if state is None or state.numel() or not of(ConditionerConfig, part.config).tokenizer:
            continue
        with unfilled():
            site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=latent)
            made = make(attrs.evolve(part, config=_without_weights(part.config)), site, catalog)
        made.fit(())
        found[key] = made.get_extra_state()
    return found


def _without_weights(conf: Any) -> Any:
    """The config of a part with its own weights here, and no need of another file."""
    own = {name: "" for name in ("weights", "weights_sha256") if any(f.name == name for f in attrs.fields(type(conf)))}
    return attrs.evolve(conf, **own)


def as_dtype(weights: ModelWeights, name: str) -> ModelWeights:
    """The floating weights as ``fp32``, ``fp16`` or ``bf16``; the scale of the latents stays as it is.

    ConfigError if a weight is too large for the type.
    """
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[name])

    def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for key, value in tensors.items():
            made[key] = value
            if value.is_floating_point() and key not in _FIXED:
                made[key] = value.to(dtype)
                if not bool(made[key].isfinite().all()) and bool(value.isfinite().all()):
                    raise ConfigError(
                        f"`dtype={name}`: {key} holds {float(value.abs().max()):.3g}, which is beyond what {name} "
                        "holds; use `dtype=bf16`"
                    )
        return made

    stage, model, adapter = weights.first_stage, weights.model, weights.adapter
    return attrs.evolve(
        weights,
        first_stage=None if stage is None else cast(stage),
        model=None if model is None else cast(model),
        adapter=None if adapter is None else cast(adapter),
    )


def written_by(
    codec: str, weights: ModelWeights, name: str, catalog: Catalog, options: Mapping[str, Any] = EMPTY
) -> Written:
    """A codec's files of complete `weights`. Raises its errors, and ConfigError for an adapter if the format holds
    none."""
    made = make_codec(codec, catalog, options)
    if (
        weights.adapter is not None
        and not of(CodecConfig, catalog.get("codec", codec)[0].component.config).writes_adapters
    ):
        raise ConfigError(f"{name}: is an adapter, and codec '{codec}' writes none; use codec ldm")
    return made.write(weights, name)


def require_free(target: str, force: bool, sources: tuple[str, ...] = ()) -> None:
    """ConfigError if `target` is taken and `force` is not given, or if replacing it would remove one of the `sources`,
    or the current folder."""
    shown = storage.shown(target)
    if not target.strip():
        raise ConfigError("DST: empty; give a path or URL")
    if storage.protocol(target) in ("http", "https"):
        raise ConfigError(f"{shown}: http is read only; give a local path, or a URL such as s3://bucket/folder")
    path = storage.local_path(target)
    whole = path is None and "/" not in target.partition("://")[2].strip("/")
    if force and whole and storage.protocol(target) != "memory":
        raise ConfigError(f"{shown}: is a whole bucket, which `force` would empty; give a folder in it")
    if path is not None:
        place = _real(path)
        for source in (*sources, os.getcwd()):
            other = storage.local_path(source)
            if other is not None and storage.exists(source) and place in (_real(other), *_real(other).parents):
                raise ConfigError(f"{shown}: holds {storage.shown(source)}; give another place")
    full = any(path.iterdir()) if path is not None and storage.is_folder(target) else storage.exists(target)
    if full and not force:
        raise ConfigError(f"{shown}: is there already; give another place, or `force` to replace it")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails for loops of links and names that are too long


def require_room(target: str, weights: ModelWeights) -> None:
    """StorageError if a local disk has less room than the weights take."""
    path = storage.local_path(target)
    if path is None:
        return
    needed = sum(t.numel() * t.element_size() for t in weights.tensors.values())
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed * 1.02 + (1 << 20):
        raise StorageError(
            f"{storage.shown(target)}: the weights take {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free "
            "there; make room, give another place, or a smaller `dtype`"
        )


def put(written: Written, target: str, *, keep: bool = False) -> list[tuple[str, int]]:
    """Write a codec's files at `target`, in place of earlier ones; (URL, bytes) of each file. With `keep`, a local
    folder made meanwhile by another process stays.

    Locally a folder comes whole, by renaming; remotely the former content goes first, and the file to make the rest
    valid comes last. A failed writing leaves nothing behind.
    """
    if list(written.files) == [""]:
        content = written.writers.get("") or written.files[""]()
        beside = _write_beside(written, target)
        return [(target, _write(target, content)), *beside]
    path = storage.local_path(target)
    return _put_local(written, path, keep) if path is not None else _put_remote(written, target)


def _write(url: str, content: bytes | Callable[[BinaryIO], object]) -> int:
    """Write a whole file or none; its size."""
    storage.atomic_write(url, content)
    return len(content) if isinstance(content, bytes) else storage.info(url).size


def _write_beside(written: Written, target: str) -> list[tuple[str, int]]:
    """Write the files beside a format of one file; ConfigError for a file there without a replaced one."""
    folder, slash, _ = target.rpartition("/")
    sizes: list[tuple[str, int]] = []
    for name, content in written.beside.items():
        url, data = folder + slash + name, content()
        if storage.exists(url) and not storage.exists(target):
            raise ConfigError(f"{storage.shown(url)}: is there already, and would go with the file; give another name")
        storage.atomic_write(url, data)
        sizes.append((url, len(data)))
    return sizes


def _put_local(written: Written, target: Path, keep: bool) -> list[tuple[str, int]]:
    shown, target = target, target.absolute()
    sizes: list[tuple[str, int]] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error})") from error
    try:
        made = work / "new"
        for name, content in written.files.items():
            size = _write(str(made / name), written.writers.get(name) or content())
            sizes.append((str(shown / name), size))
        if target.exists() and not keep:
            target.rename(work / "old")
        try:
            made.rename(target)
        except OSError:
            if keep and target.is_dir():
                return sizes
            if (work / "old").exists():
                (work / "old").rename(target)
            raise
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sizes


def _put_remote(written: Written, target: str) -> list[tuple[str, int]]:
    if storage.exists(target) or storage.is_folder(target):
        storage.remove(target, recursive=True)
    sizes: list[tuple[str, int]] = []
    try:
        for name, content in written.files.items():
            url = storage.join(target, name)
            sizes.append((url, _write(url, written.writers.get(name) or content())))
    except BaseException:
        for url, _ in sizes:  # half a model is none
            storage.remove(url)
        raise
    return sizes
