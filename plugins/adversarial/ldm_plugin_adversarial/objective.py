"""The adversarial loss as a part of a recipe."""

from __future__ import annotations

from ldm_core.contracts import Site
from ldm_plugin_adversarial.config import AdversarialConfig


class AdversarialObjective:
    """The settings of the loss at its place; the training of first stages still builds the losses from its own."""

    def __init__(self, config: AdversarialConfig, site: Site) -> None:
        self.config, self.site = config, site
