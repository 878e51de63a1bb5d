"""The codec's options. Imports no torch."""

from __future__ import annotations

import attrs


def _a_word(instance: object, attribute: attrs.Attribute, value: str) -> None:
    if value and not all(c.isalnum() or c in "_-" for c in value):
        raise ValueError(f"{attribute.name}: expected a word such as fp16, got '{value}'")


@attrs.frozen(kw_only=True)
class DiffusersConfig:
    """Folders of components and of whole pipelines, as diffusers saves them."""

    variant: str = attrs.field(
        default="",
        validator=_a_word,
        metadata={"help": "which variant of the weights to read (fp16 of x.fp16.safetensors); empty: the plain one"},
    )
