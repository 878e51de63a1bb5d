"""Configurations of the caches. Imports no torch."""

from __future__ import annotations

import math
from typing import Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import AdapterConfig

_BRANCH = "span of blocks that is left out, 0 the largest; of a U-Net, branch + 1 blocks at either end always run"


@attrs.frozen(kw_only=True)
class DeepCacheConfig(AdapterConfig):
    """The deep blocks run at some steps alone (Ma et al. 2023, arXiv 2312.00858)."""

    learns = False
    interval: int = field(3, "steps to each one that computes all; 1: all of them do, and no bit changes", minimum=1)
    branch: int = field(0, _BRANCH, minimum=0)
    order: int = field(
        1, "degree of the polynomial along which features go on between full steps; 0: they stay", minimum=0, maximum=3
    )
    schedule: Literal["uniform", "quadratic"] = attrs.field(
        default="uniform",
        validator=attrs.validators.in_(("uniform", "quadratic")),
        metadata={"help": "full steps at equal distances, or dense around the center"},
    )
    center: float = field(0.3, "quadratic: the place of dense full steps, a share of the run", 0.0, maximum=1.0)
    power: float = field(1.4, "quadratic: 1 is uniform; the higher, the denser at the center", 1.0, maximum=10.0)

    def full_steps(self, steps: int) -> list[int]:
        """Return the full steps of a run of `steps`, in order; the first one is among them.

        Quadratic (section 3.3 of the paper): with c the center and p the power, (l)^p + c rounded down for l at equal
        distances from -c^(1/p) to (steps - c)^(1/p); powers keep the sign. p is lowered if two would fall on one step.
        """
        if self.interval == 1 or self.schedule == "uniform":
            return list(range(0, steps, self.interval))
        count, center, power = math.ceil(steps / self.interval), self.center * steps, self.power
        while power > 1:
            begin, end = _signed(-center, 1 / power), _signed(steps - center, 1 / power)
            places = (_signed(begin + (end - begin) * i / count, power) + center for i in range(count))
            found = sorted({math.floor(round(place, 6)) for place in places} | {0})
            if len(found) == count:
                return found
            power = round(power - 0.02, 6)
        return [i * steps // count for i in range(count)]


def _signed(value: float, power: float) -> float:
    """Raise |value| to `power`, with the sign of `value`."""
    return math.copysign(abs(value) ** power, value)


@attrs.frozen(kw_only=True)
class FirstBlockCacheConfig(AdapterConfig):
    """All blocks but the first run if its output has changed (first-block cache), for each image by itself."""

    learns = False
    threshold: float = field(
        0.1, "relative change of the first block's output up to which the others are left out; 0: never", minimum=0.0
    )
    branch: int = field(0, _BRANCH.replace("left out", "left out but for its first block"), minimum=0)
    accumulate: bool = attrs.field(
        default=False,
        metadata={"help": "sum up the changes from call to call (TeaCache), not since the last full one"},
    )
    max_skips: int = field(0, "most calls in a row without the other blocks; 0: any number", minimum=0)
