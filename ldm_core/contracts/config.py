"""What every config may answer beside its settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from ldm_core.contracts.defaults import answer, of
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import Precision


class Config:
    """Answers that every kind of component may give."""

    __slots__ = ()

    def check(self, site: Site) -> Iterable[str]:
        """Yield a line for each thing that does not fit at `site`: both numbers, and the fix."""
        return ()

    @answer
    def fixed_size(self) -> bool:
        """True if the part is built for one image size, so that ``data.buckets`` is refused."""
        return False

    @answer
    def precisions(self) -> tuple[Precision, ...]:
        """The arithmetic in which the networks of the part may run, of ``fp32``, ``bf16`` and ``fp16``.

        () = any; of a first stage that is not being trained, fp32 and bf16. Where a run asks for another one, a
        conditioner and a first stage run in fp32, which is among theirs; a denoiser and an adapter are refused.
        """
        return ()


PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def allowed_precisions(kind: str, config: object) -> tuple[Precision, ...]:
    """The arithmetic in which a part of this `kind` and `config` may run; of a first stage, one that is trained
    already: published autoencoders leave the range of fp16."""
    return of(Config, config).precisions or (("fp32", "bf16") if kind == "first_stage" else PRECISIONS)


def precision_among(allowed: Sequence[Precision], asked: Precision) -> Precision:
    """The precision that is `asked` for where it is `allowed`, else fp32, else the first allowed one."""
    return asked if asked in allowed else "fp32" if "fp32" in allowed else allowed[0]
