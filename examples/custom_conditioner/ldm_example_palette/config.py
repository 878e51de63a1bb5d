"""Options of the conditioner `palette`. Imports no torch: a recipe is checked before anything heavy loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import CondSpec, KeyForm, LatentSpec, Site


@attrs.frozen(kw_only=True)
class PaletteConfig:
    """A few colours for each image, handed to cross-attention as a token each."""

    width: int = attrs.field(default=128, metadata={"help": "width of a colour's token"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys of an example that the conditioner touches."""
        return ("palette",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """What it writes: cross-attention tokens of `width` numbers."""
        return CondSpec(crossattn=self.width)

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """What `ldm-run sample --help-inputs` says of the palette; it may be left out, as may everything from here."""
        return {"palette": KeyForm("colours [red, green, blue], 0 to 255", [[30, 30, 30], [230, 60, 50]])}

    def check(self, site: Site) -> Iterator[str]:
        """One line for each number that cannot work."""
        if self.width < 1:
            yield f"width: expected a whole number above 0, got {self.width}"
