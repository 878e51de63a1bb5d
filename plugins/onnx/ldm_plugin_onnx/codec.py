"""The codec: writes a model as networks of ONNX, and reads its weights back from the file beside them."""

from __future__ import annotations

import math
from collections import Counter
from typing import cast

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, TensorFile, Written, overlay
from ldm_core.contracts.site import Site
from ldm_core.errors import CheckpointError
from ldm_plugin_onnx.config import ONNXConfig
from ldm_plugin_onnx.weights_file import FILE, PARTS, Description, described


class ONNXCodec(Codec):
    """Folders with ``model.json``, networks of ONNX, and ``weights.safetensors`` with the weights of all of them.
    Reading goes by that file alone. See :class:`ldm_core.contracts.codec.Codec`."""

    def __init__(self, config: ONNXConfig, site: Site) -> None:
        self._catalog = site.catalog

    def recognise(self, source: Source) -> Recognised | None:
        """Read the header of the weights; None without ours."""
        found = _found(source)
        if found is None:
            return None
        file, said = found
        counts: Counter[str] = Counter()
        for name, info in file.infos.items():
            part, _, rest = name.partition(".")
            counts[rest.partition(".")[0] if part == "model" else part] += math.prod(info.shape)
        whole = any(name.startswith("model.denoiser.") for name in file.infos)
        return Recognised(
            what=f"{'a model' if whole else 'a first stage'} of ldm-core, written for ONNX",
            holds="model" if whole else "first_stage",
            recipe=overlay(said.recipe, source.given),
            parameters={name: count for name, count in counts.items() if count},
        )

    def read(self, source: Source) -> ModelWeights:
        """Every tensor, as it was."""
        found = _found(source)
        if found is None:
            raise CheckpointError(f"{source.url}: has no {FILE} of this format")
        file, said = found
        parts = {
            part: {n.removeprefix(part + "."): n for n in file.infos if n.startswith(part + ".")} for part in PARTS
        }
        tensors = {part: {name: file.read(key) for name, key in names.items()} for part, names in parts.items()}
        return ModelWeights(
            recipe=overlay(said.recipe, source.given),
            first_stage=tensors["first_stage"] or None,
            model=tensors["model"] or None,
            class_names=said.class_names,
            unexpected=[name for name in file.infos if name.partition(".")[0] not in PARTS],
        )

    def write(self, weights: ModelWeights, name: str) -> Written:
        """The networks, the weights and, last, ``model.json``. ConfigError for a denoiser or conditioner
        alone, for adapters, for a network beyond torch's exporter, and without the packages for it."""
        from ldm_plugin_onnx.write import write

        catalog = cast(Catalog, self._catalog) if self._catalog is not None else Catalog.discover()
        return write(weights, name, catalog)


def _found(source: Source) -> tuple[TensorFile, Description] | None:
    if not source.folder or FILE not in source.names:
        return None
    file = source.tensors(FILE)
    said = described(file)
    return None if said is None else (file, said)
