"""Settings of the embedded ``shapes`` data. Imports attrs only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import DatasetConfig
from ldm_core.errors import quoted

_MOST_SCENES = 10**8  # the order of an epoch is kept in memory

if TYPE_CHECKING:
    from ldm_core.contracts import Site

SMALLEST_SIDE = 16  # below it a star of a third of the side is four pixels wide: a blob


def _positive(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name}: expected a whole number above 0, got {quoted(value)}")
    if value > _MOST_SCENES:
        raise ValueError(f"{attribute.name}: expected at most {_MOST_SCENES:,}, got {quoted(value)}")


def _shares(_: object, attribute: attrs.Attribute[tuple[float, ...]], value: tuple[float, ...]) -> None:
    if not 1 <= len(value) <= 3 or min(value) < 0 or value[0] <= 0:
        raise ValueError(
            f"{attribute.name}: expected one to three shares (scenes of one, two, three objects), none"
            f" negative and the first above 0, got {list(value)}"
        )


@attrs.frozen(kw_only=True)
class ShapesConfig(DatasetConfig):
    """Seeded scenes of one to three coloured shapes; example i depends on (seed, split, i) and the other
    settings here alone.

    ``pairs`` says which (colour, shape) pairs the scenes may hold. ``auto`` is ``seen`` for train and ``all``
    for val; train never holds a held-out pair, whatever is asked of val.
    """

    scenes: int = attrs.field(default=20_000, validator=_positive, metadata={"help": "length of the train split"})
    val_scenes: int = attrs.field(default=1_000, validator=_positive, metadata={"help": "length of the val split"})
    split: Literal["train", "val"] = field("train", "split that is drawn")
    backgrounds: Literal["plain", "gradient", "texture", "mixed"] = field("plain", "background of the scenes")
    max_objects: int = attrs.field(
        default=3, validator=attrs.validators.in_((1, 2, 3)), metadata={"help": "most objects of a scene: 1, 2 or 3"}
    )
    # half are single: a shape is learned fastest where it is large and alone
    shares: tuple[float, ...] = attrs.field(
        default=(0.5, 0.3, 0.2),
        validator=_shares,
        metadata={"help": "relative frequency of scenes of one, two and three objects"},
    )
    pairs: Literal["auto", "seen", "held_out", "all"] = field(
        "auto", "pairs of colour and shape that occur; auto = seen for train, all for val"
    )
    seed: int = field(0, "seed of the scenes", minimum=0)

    @property
    def allowed_pairs(self) -> Literal["seen", "held_out", "all"]:
        """``pairs`` with ``auto`` resolved for the split."""
        if self.pairs != "auto":
            return self.pairs
        return "seen" if self.split == "train" else "all"

    def check(self, site: Site) -> Iterable[str]:
        """One line for each setting that cannot work at ``site``."""
        if min(site.size[-2:]) < SMALLEST_SIDE:
            yield (
                f"shapes: image_size {list(site.size)} is too small for a readable shape; "
                f"set both sides to {SMALLEST_SIDE} or more"
            )
        if self.split == "train" and self.allowed_pairs != "seen":
            yield (
                f"shapes.pairs: '{self.pairs}' would put held-out pairs into the train split; "
                "use 'auto' or 'seen', or split: val"
            )
