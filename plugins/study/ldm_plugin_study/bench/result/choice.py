"""The choice of components to measure, and how long. Imports no torch."""

from __future__ import annotations

from typing import Literal

import attrs

from ldm_core.contracts import Precision

COMPONENTS = {
    "encode": "first stage: pictures to moments",
    "decode": "first stage: latents to pictures",
    "conditions": "conditioners: inputs to bundles",
    "forward": "denoiser: one evaluation, as in sampling",
    "step": "sampler: one step under the recipe's guidance",
    "train": "loss of a training step, forward and backward; no optimizer",
    "loader": "examples read, decoded, fitted and collated, in one process",
    "storage": "files read as they are",
}
"""Name -> meaning of everything measured beside the machine's peak."""

SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}
"""Sides of the square matrices for the peak, by kind of device."""


@attrs.frozen(kw_only=True)
class Choice:
    """The components and precisions to measure, by name; the steps of a sampler's run; the rounds, each of at least
    `least` seconds a component, by a `clock`; the sides of the square matrices for the peak."""

    components: tuple[str, ...] = tuple(COMPONENTS)
    precisions: tuple[Precision, ...] = ("fp32",)
    sampler_steps: int = 4
    rounds: int = 7
    least: float = 0.25
    sizes: tuple[int, ...] = SIZES["cpu"]
    memory: bool = True
    clock: Literal["wall", "processor"] = "wall"


def quick(choice: Choice) -> Choice:
    """A shorter measurement of the same things."""
    return attrs.evolve(choice, rounds=3, least=0.05, sampler_steps=2, sizes=choice.sizes[:-1])
