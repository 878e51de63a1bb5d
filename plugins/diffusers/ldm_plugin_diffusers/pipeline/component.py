"""One component by itself: a folder, or a file beside its config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from ldm_core.contracts.codec import ModelWeights, Recognised, Source, overlay
from ldm_plugin_diffusers.autoencoder.keys import CLASSES as AUTOENCODERS
from ldm_plugin_diffusers.autoencoder.read import Autoencoder, read_autoencoder
from ldm_plugin_diffusers.component import ReadPart
from ldm_plugin_diffusers.folder import stored_in
from ldm_plugin_diffusers.text.bert import BERT, read_bert
from ldm_plugin_diffusers.text.clip import CLIP, read_clip
from ldm_plugin_diffusers.text.encoder import TextEncoder
from ldm_plugin_diffusers.unet.keys import CROSS, PLAIN
from ldm_plugin_diffusers.unet.read import read_unet
from ldm_plugin_diffusers.values import Plain
from ldm_plugin_diffusers.weights import Stored, misfits


@attrs.frozen(kw_only=True)
class Found:
    """A source's content: `said` of it, and a function that reads its weights."""

    said: Recognised
    load: Callable[[], ModelWeights]


READERS: Mapping[str, Callable[[Plain, str, Stored], ReadPart]] = {
    **dict.fromkeys(AUTOENCODERS, read_autoencoder),
    **dict.fromkeys((PLAIN, CROSS), read_unet),
    BERT: read_bert,
    CLIP: read_clip,
}
"""Class -> reader of a config.json, a name for messages, and the stored tensors."""


def read_component(source: Source, variant: str) -> Found | None:
    """A component with a config.json of a known class, else None."""
    plain = source.config("config.json")
    if not isinstance(plain, Mapping):
        return None
    classes = plain.get("architectures")
    name = plain.get("_class_name") or (classes[0] if isinstance(classes, list) and classes else None)
    if not isinstance(name, str) or name not in READERS:
        return None
    stored, notes = stored_in(source, "", variant)
    part = READERS[name](plain, name, stored)
    misfits(part.weights, stored)
    recipe = part.recipe()
    notes += part.notes
    if isinstance(part, Autoencoder) and part.sample_size and not any(n % part.factor for n in part.sample_size):
        recipe["image_size"] = list(part.sample_size)
    if isinstance(part, TextEncoder):
        notes.append(f"{name}: it comes without its tokenizer, which lies in another folder")
    recipe = overlay(recipe, source.given)

    def load() -> ModelWeights:
        taken = part.read()
        stage = part.kind == "first_stage"
        return ModelWeights(
            recipe=recipe,
            first_stage=taken.tensors if stage else None,
            model=None if stage else taken.tensors,
            latent=part.latent,
            cond=part.cond,
            missing=taken.missing,
            unexpected=taken.unexpected,
            notes=notes,
        )

    said = Recognised(what=name, holds=part.kind, recipe=recipe, notes=notes, parameters={part.kind: stored.parameters})
    return Found(said=said, load=load)
