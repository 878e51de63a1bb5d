"""The codec: recognise, read and write folders of diffusers."""

from __future__ import annotations

from ldm_core.contracts import Site
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, Written
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.config import DiffusersConfig
from ldm_plugin_diffusers.pipeline.component import Found, read_component
from ldm_plugin_diffusers.pipeline.layouts import INDEX
from ldm_plugin_diffusers.pipeline.read import read_pipeline
from ldm_plugin_diffusers.pipeline.write import write


class DiffusersCodec(Codec):
    """Folders of components and of pipelines as diffusers saves them; see :class:`ldm_core.contracts.codec.Codec`."""

    def __init__(self, config: DiffusersConfig | None = None, site: Site | None = None) -> None:
        self.config = config or DiffusersConfig()

    def recognise(self, source: Source) -> Recognised | None:
        """Recognise a model_index.json or config.json; None without either of a known class.

        CheckpointError if shapes and configs do not belong together, ConfigError for a model beyond our parts.
        """
        found = self._found(source)
        return None if found is None else found.said

    def read(self, source: Source) -> ModelWeights:
        """The weights in our names, with the normalisation of the latents and the tokenizer's bytes."""
        found = self._found(source)
        if found is None:
            raise CheckpointError(f"{source.url}: has neither a model_index.json nor a config.json of a known class")
        if found.said.unknown:
            raise ConfigError(
                [f"{source.url}: nothing says {k}; add {k}={v[0]}" for k, v in found.said.unknown.items()]
            )
        return found.load()

    def write(self, weights: ModelWeights, name: str) -> Written:
        """A folder for diffusers' ``from_pretrained``; its model_index.json or config.json comes last."""
        return write(weights, name)

    def _found(self, source: Source) -> Found | None:
        if source.folder and INDEX in source.names:
            return read_pipeline(source, self.config.variant)
        return read_component(source, self.config.variant)
