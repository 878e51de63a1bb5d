"""Values that say how parts fit: widths, shapes, data; and the tensors that parts hand over. Imports no torch."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import attrs

if TYPE_CHECKING:
    from torch import Tensor

EMPTY: Mapping[str, Any] = MappingProxyType({})
"""An empty mapping that is shared: nothing can be put into it."""


def _read_only(items: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(items)  # by a name of ours: pickle finds no class "builtins.mappingproxy"


def _reduce_mapping(mapping: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _read_only, (dict(mapping),)


# Specs and configs hold read-only mappings, and modules hold specs and configs: a deep copy (an EMA) and a pickle (a
# loader's worker) of them must work.
copyreg.pickle(MappingProxyType, _reduce_mapping)  # type: ignore[arg-type]


@attrs.frozen
class LatentSpec:
    """The shape of a first stage's latents: `channels`, and `stride`, image pixels per latent cell on each axis."""

    channels: int
    stride: tuple[int, ...] = (8, 8)

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Image size (H, W) -> latent shape (C, h, w).

        Raises ValueError naming both numbers where an axis is not divisible by its stride.
        """
        if len(size) != len(self.stride):
            raise ValueError(f"image size {tuple(size)} has {len(size)} axes; latents have {len(self.stride)}")
        for pixels, stride in zip(size, self.stride, strict=True):
            if pixels % stride or pixels <= 0:
                near = max(stride, round(pixels / stride) * stride)
                raise ValueError(
                    f"image size {pixels} is not divisible by the first stage's factor {stride}; "
                    f"use a multiple such as {near}"
                )
        return (self.channels, *(p // s for p, s in zip(size, self.stride, strict=True)))


@attrs.frozen
class CondSpec:
    """Widths of a conditioning bundle; 0 or empty = absent.

    `crossattn` D of (B, L, D); `vector` V of (B, V); `concat` C' of (B, C', *s); `residuals`, sites written to;
    `extras`, name -> shape without B (None = free), e.g. ``{"t5": (None, 4096), "fps": ()}``.
    """

    crossattn: int = 0
    vector: int = 0
    concat: int = 0
    residuals: tuple[str, ...] = ()
    extras: Mapping[str, tuple[int | None, ...]] = attrs.field(default=EMPTY)

    @staticmethod
    def merge(specs: Mapping[str, CondSpec]) -> CondSpec:
        """Merge the specs of named conditioners as :meth:`ldm_core.contracts.conditioning.Cond.merge` merges their
        bundles.

        Raises ValueError naming both conditioners where cross-attention widths differ or an extra comes twice.
        """
        crossattn, owner = 0, ""
        extras: dict[str, tuple[int | None, ...]] = {}
        owners: dict[str, str] = {}
        residuals: list[str] = []
        for name, spec in specs.items():
            if spec.crossattn and crossattn and spec.crossattn != crossattn:
                raise ValueError(
                    f"conditioner '{owner}' has cross-attention width {crossattn} and '{name}' {spec.crossattn}; "
                    f"set one width for both, e.g. conditioners.{name}.width={crossattn}"
                )
            if spec.crossattn and not crossattn:
                crossattn, owner = spec.crossattn, name
            for key, shape in spec.extras.items():
                if key in extras:
                    raise ValueError(
                        f"conditioners '{owners[key]}' and '{name}' both write the extra '{key}'; drop one"
                    )
                extras[key], owners[key] = shape, name
            residuals += [site for site in spec.residuals if site not in residuals]
        return CondSpec(
            crossattn=crossattn,
            vector=sum(s.vector for s in specs.values()),
            concat=sum(s.concat for s in specs.values()),
            residuals=tuple(residuals),
            extras=extras,
        )


@attrs.frozen
class Accepts:
    """The parts of a conditioning bundle that a denoiser, guidance or adapter uses; ``extras`` by name.

    A denoiser's config has it as the attribute `accepts`; without one, everything but extras is taken as accepted.
    """

    crossattn: bool = True
    vector: bool = True
    concat: bool = True
    residuals: bool = True
    extras: tuple[str, ...] = ()


@attrs.frozen
class DataInfo:
    """The offer of a data set: `keys` name -> geometry, `classes` name -> count, `class_names` where known;
    `lacks`, why keys that one might expect are not offered; `widths` name -> length of vectors, where known;
    `remarks`, what is left out of it or seems odd."""

    keys: Mapping[str, str]
    classes: Mapping[str, int] = attrs.field(default=EMPTY)
    class_names: Mapping[str, tuple[str, ...]] = attrs.field(default=EMPTY)
    lacks: Mapping[str, str] = attrs.field(default=EMPTY)
    widths: Mapping[str, int] = attrs.field(default=EMPTY)
    remarks: str = attrs.field(default="", eq=False)


Batch: TypeAlias = Mapping[str, Any]
"""A collated batch: equal-shaped arrays stacked into tensors, all else a list of length B."""


class Estimate(NamedTuple):
    """The estimate of a model: `x0` (B, C, *s) float32; `extra`, denoiser channels beyond C (a learned variance).

    `project`: what is to be made of x0 once eps has been taken from it (the nearest codes); it is handed to samplers
    alone whose config says `quantizes` (bool), and they use :attr:`data`.
    """

    x0: Tensor
    extra: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None

    @property
    def data(self) -> Tensor:
        """x0 as the step is to take it: projected where that is asked for."""
        return self.x0 if self.project is None else self.project(self.x0)


class LossOutput(NamedTuple):
    """A loss per example: `value` (B,), unweighted over the batch; `logs`, detached scalars or (B,) by name."""

    value: Tensor
    logs: Mapping[str, Tensor] = EMPTY


Denoise: TypeAlias = "Callable[[Tensor, Tensor], Estimate]"
"""(x, t (B,)) -> Estimate: what a sampler calls; conditioning and guidance are closed over."""


OnStep: TypeAlias = "Callable[[int, Tensor, Tensor, Tensor], Tensor | None]"
"""(index, t (), x at level t, x0): called after each step; a returned tensor replaces x; raise to cancel."""


class Reconstruction(NamedTuple):
    """One training pass of a first stage: `image` (B, c, H, W), not clamped; `regularization` (), unweighted.

    `logs`: detached tensors, which are averaged over micro-batches and processes. Those with axes are then handed to
    the stage's ``diagnostics(logs)``, where it has one, which makes scalars of them.
    """

    image: Tensor
    regularization: Tensor
    logs: Mapping[str, Tensor] = EMPTY


Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic inside the networks."""
