"""The files of a model for ONNX."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond, FirstStage
from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.load import assemble
from ldm_core.weights.complete import build_part, recipe_of
from ldm_plugin_onnx import description, network
from ldm_plugin_onnx.example import example_batch
from ldm_plugin_onnx.graph import bytes_of, fixed_axes, graph_of
from ldm_plugin_onnx.inner import Inner, inner_network
from ldm_plugin_onnx.library import packages
from ldm_plugin_onnx.network import Exported
from ldm_plugin_onnx.weights_file import FILE, WeightsFile

INDEX, NULLS = "model.json", "nulls.npz"


def write(weights: ModelWeights, name: str, catalog: Catalog) -> Written:
    """The files for `weights` with a complete recipe; the errors are those of ``ONNXCodec.write``."""
    packages()
    last = name.rsplit("/", 1)[-1]
    if last.endswith((".onnx", ".safetensors", ".json")):
        raise ConfigError(f"{last}: a model for ONNX is a folder of several networks; give a name without a suffix")
    if weights.first_stage is None:
        raise ConfigError(f"{last}: ONNX is written of a model or a first stage; give the first stage as `first_stage`")
    if adapters := weights.recipe.get("adapters"):
        names = ", ".join(str(row["use"]) for row in adapters)
        raise ConfigError(f"onnx: adapters ({names}) are not exported; take them off with adapters.NAME=null")
    made = _Folder(WeightsFile.of(weights))
    if weights.model is None:
        recipe, stage = recipe_of(weights, catalog), cast(FirstStage, build_part(weights, catalog))
        said = description.of_stage(recipe, stage)
    else:
        loaded = assemble(weights, catalog, device="cpu", where=last)
        recipe, stage = loaded.recipe, loaded.stage
        said = description.of_model(recipe, stage, loaded.model, catalog)
        _add_model(made, said, recipe, loaded.model)
    _add_stage(made, recipe, stage)
    return made.written(said)


def _add_stage(made: _Folder, recipe: Recipe, stage: FirstStage) -> None:
    pictures = (recipe.image_channels, *recipe.image_size)
    made.add("encoder", network.encoder(stage, pictures))
    made.add("decoder", network.decoder(stage, stage.latent.shape(recipe.image_size)))


def _add_model(made: _Folder, said: dict[str, Any], recipe: Recipe, model: Model) -> None:
    batch, conds = example_batch(recipe), {}
    inners: dict[str, Inner | None] = {}
    for name, conditioner in model.conditioners.items():
        encode = partial(_encoded, model, name, batch)
        conds[name], inners[name] = inner_network(conditioner, encode)
    with torch.no_grad():
        nulls = model.nulls(conds)
        merged = model.merged(conds)
    made.add("denoiser", network.denoiser(model, merged, model_latent(recipe)))
    for name, inner in inners.items():
        part = model.conditioners[name]
        if inner is not None:
            made.add(f"conditioner_{name}", inner.exported(name))
        row = description.of_conditioner(recipe, name, part, conds[name], inner)
        row["null"] = _null(made, name, conds[name], nulls[name])
        if state := _tokenizer(part):
            row["tokenizer"] = made.take(f"tokenizer_{name}", state)
        said["conditioners"][name] = row
    said["conditioners_join"] = description.joins(recipe)


def model_latent(recipe: Recipe) -> tuple[int, ...]:
    """The shape (C, *s) of one picture's latents."""
    found: tuple[int, ...] = recipe.first_stage.config.latent.shape(recipe.image_size)
    return found


def _encoded(model: Model, name: str, batch: Mapping[str, Any]) -> Cond:
    return model.encode(batch, [name])[name]


def _tokenizer(part: nn.Module) -> bytes:
    """The bytes of a conditioner's extra state."""
    try:
        state = part.get_extra_state()
    except RuntimeError:  # torch's answer of a module without one
        return b""
    return state.numpy().tobytes() if isinstance(state, Tensor) and state.dtype == torch.uint8 else b""


def _null(made: _Folder, name: str, cond: Cond, null: Cond) -> Any:
    """The null bundle of one row by part: its place in the file of nulls."""
    if null is cond or all(torch.equal(value, cond.flat()[part]) for part, value in null.flat().items()):
        return "the condition itself: it is never left out"
    found: dict[str, str] = {}
    for part, value in null.flat().items():
        key = f"{name}/{part}"
        made.nulls[key] = value[0].numpy()
        found[part] = f"{NULLS}: {key}"
    return found


@attrs.define(eq=False)
class _Folder:
    """The files as they are made."""

    weights: WeightsFile
    files: dict[str, Callable[[], bytes]] = attrs.field(factory=dict)
    networks: dict[str, Any] = attrs.field(factory=dict)
    nulls: dict[str, np.ndarray] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)
    places: dict[str, tuple[int, int]] = attrs.field(
        default=attrs.Factory(lambda self: self.weights.places(), takes_self=True)
    )

    def add(self, name: str, exported: Exported) -> None:
        """Export a network into the file NAME.onnx."""
        graph = graph_of(name, exported, self.weights, self.places)
        if fixed := fixed_axes(graph, exported):
            self.notes.append(f"{name}.onnx: takes {', '.join(fixed)} alone, as its code does")
        data = bytes_of(graph)
        self.files[f"{name}.onnx"] = lambda: data
        self.networks[name] = description.of_graph(f"{name}.onnx", graph)

    def take(self, name: str, data: bytes) -> str:
        """One more file; its name."""
        self.files[name] = lambda: data
        return name

    def written(self, said: dict[str, Any]) -> Written:
        """The folder, with its description."""
        if self.nulls:
            file = io.BytesIO()
            np.savez(file, **self.nulls)  # type: ignore[arg-type]
            self.take(NULLS, file.getvalue())
        outside = [
            f"{name}: {row['outside']}" for name, row in said.get("conditioners", {}).items() if row.get("outside")
        ]
        said = {**said, "networks": self.networks, "weights": FILE}
        text = description.as_json(said)
        files = {FILE: self.weights.whole, **self.files, INDEX: lambda: text}
        return Written(files=files, writers={FILE: self.weights.write}, notes=[*self.notes, *outside])
