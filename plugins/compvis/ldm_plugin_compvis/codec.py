"""The codec: recognise, read and write files of CompVis' latent diffusion and Stable Diffusion 1 and 2."""

from __future__ import annotations

from ldm_core.contracts import Site
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, Written
from ldm_core.errors import CheckpointError
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.recognise.file import examine


class CompVisCodec(Codec):
    """See :class:`CompVisConfig` for the options."""

    def __init__(self, config: CompVisConfig, site: Site | None = None) -> None:
        self.config = config

    def recognise(self, source: Source) -> Recognised | None:
        """Recognise a file from its names and shapes, the schedule's buffers and a configuration beside it."""
        found = examine(source, self.config)
        if found is None:
            return None
        return Recognised(
            what=found.what,
            holds=found.holds,
            recipe=found.recipe,
            unknown=found.unknown,
            notes=found.notes,
            ema=found.layout.ema,
            parameters=found.parameters(),
        )

    def read(self, source: Source) -> ModelWeights:
        """The weights under our names; ConfigError with the candidates while something is unknown."""
        from ldm_plugin_compvis.read import read

        found = examine(source, self.config)
        if found is None:
            raise CheckpointError(f"{source.url}: holds neither a U-Net nor a first stage under CompVis' names")
        return read(found, self.config, source.url)

    def write(self, weights: ModelWeights, name: str) -> Written:
        """One file, ``.ckpt`` or ``.safetensors`` by the suffix of `name`, and the configuration beside a model."""
        from ldm_plugin_compvis.write import write

        return write(weights, name, self.config)
