"""Classifier-free guidance's configuration. Imports no torch."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class CFGConfig:
    """Ho & Salimans 2022 (arXiv 2207.12598), in the scale of the latent diffusion paper."""

    # Between the 1.5 of the published class and text models and the 7.5 that pushes small ones out of range.
    scale: float = attrs.field(
        default=3.0,
        metadata={"help": "1: conditional, one evaluation; 0: unconditional; above 1: stronger than the data"},
    )

    @property
    def needs_null(self) -> bool:
        """Whether the model is called without conditions: at every scale but 1."""
        return self.scale != 1.0
