"""Notes on pictures that were shrunk, cropped or padded to the sampled size. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_core.contracts.configs import DenoiserConfig, of

Size = tuple[int, int]
"""Height and width, in pixels."""


def multiple_of(recipe: Any) -> int:
    """Divisor of every image size of `recipe`: the first stage's factor times the denoiser's."""
    stride = max(recipe.first_stage.config.latent.stride)
    return int(stride) * of(DenoiserConfig, recipe.denoiser.config).factor


def fit_note(names: str, source: Size, target: Size, rule: str, *, multiple: int = 1, taken: Size | None = None) -> str:
    """One line, or "" if nothing of the picture is lost.

    `names`: of the inputs; `rule`: ``crop`` or ``pad``; `multiple`: :func:`multiple_of`. `taken`: the smaller size of
    a picture to be enlarged.
    """
    end = taken or target
    words = _changes(source, end, rule)
    if not words or (words == ["enlarged"] and not taken):
        return ""
    wanted = [side * (whole // small) for side, whole, small in zip(source, target, end, strict=True)]
    sides = [max(multiple, side // multiple * multiple) for side in wanted]
    size = str(sides[0]) if sides[0] == sides[1] else f"[{sides[0]},{sides[1]}]"
    if sides != wanted:
        how = f"is the nearest that keeps most of it (multiples of {multiple})"
    else:
        how = "takes it as the small picture" if taken else "keeps its size"
    return (
        f"{names} of {source[0]}x{source[1]} (height x width): {' and '.join(words)} to {end[0]}x{end[1]}; "
        f"image_size={size} {how}"
    )


def _changes(source: Size, end: Size, rule: str) -> list[str]:
    ratios = [before / after for before, after in zip(source, end, strict=True)]
    ratio = max(ratios) if rule == "pad" else min(ratios)
    words = [word for word, there in (("shrunk", ratio > 1), ("enlarged", ratio < 1)) if there]
    if ratios[0] != ratios[1]:
        words.append("padded" if rule == "pad" else "cropped")
    return words


def input_notes(
    sizes: Mapping[str, Size], target: Size, rule: str, *, multiple: int = 1, taken: Mapping[str, Size] | None = None
) -> list[str]:
    """The lines of several inputs by name, one for all that have the same size."""
    groups: dict[tuple[Size, Size | None], list[str]] = {}
    for name, source in sizes.items():
        groups.setdefault((source, (taken or {}).get(name)), []).append(name)
    lines = [
        fit_note(" and ".join(names), source, target, rule, multiple=multiple, taken=small)
        for (source, small), names in groups.items()
    ]
    return [line for line in lines if line]
