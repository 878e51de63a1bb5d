"""The pipelines: their folders and their model_index.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.values import Plain, shown

INDEX = "model_index.json"
UNET, SCHEDULER, TOKENIZER = "unet", "scheduler", "tokenizer"
"""The folders with one name in every pipeline."""


@attrs.frozen(kw_only=True)
class Layout:
    """A pipeline's class: `stage` and `text` are folders ("" = it has none), `use` is our conditioner.

    `extra`: possible parts, left out.
    """

    what: str
    stage: str
    text: str = ""
    use: str = ""
    extra: Sequence[str] = ()

    @property
    def weights(self) -> Sequence[str]:
        """The folders with weights."""
        return (self.stage, UNET, *([self.text] if self.text else []))

    @property
    def folders(self) -> Sequence[str]:
        """All folders."""
        return (self.stage, UNET, SCHEDULER, *([self.text, TOKENIZER] if self.text else []))


LAYOUTS: Mapping[str, Layout] = {
    "LDMPipeline": Layout(what="latent diffusion, unconditional", stage="vqvae"),
    "LDMTextToImagePipeline": Layout(what="latent diffusion, text to image", stage="vqvae", text="bert", use="text"),
    "StableDiffusionPipeline": Layout(
        what="Stable Diffusion, text to image",
        stage="vae",
        text="text_encoder",
        use="clip_text",
        extra=("safety_checker", "feature_extractor", "image_encoder"),
    ),
}
"""The pipelines read and written."""


def named(name: Any, where: str) -> Layout:
    """The layout of a class. ConfigError for a pipeline beside :data:`LAYOUTS`."""
    layout = LAYOUTS.get(name) if isinstance(name, str) else None
    if layout is None:
        raise ConfigError(
            f"{where}: {INDEX}: _class_name is {shown(name)}; this package's parts can express: "
            f"{', '.join(LAYOUTS)}. One of its folders (vae, unet) can be given by itself"
        )
    return layout


def left_out(source: Source, index: Plain, layout: Layout) -> list[str]:
    """Notes on the parts left out. CheckpointError for a missing part, ConfigError for an unknown one."""
    notes = []
    for folder in layout.folders:
        entry = index.get(folder)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(word, str) for word in entry):
            raise CheckpointError(f"{source.url}: {INDEX}: {folder} is {shown(entry)}; the pipeline needs that part")
    for key, entry in index.items():
        empty = not isinstance(entry, list) or entry in ([None, None], [])
        if str(key).startswith("_") or key in layout.folders or empty:
            continue
        if key not in layout.extra:
            raise ConfigError(f"{source.url}: {INDEX}: unknown part {str(key)[:60]} ({shown(entry)}); remove it")
        notes.append(f"{key} is left out")
    return notes
