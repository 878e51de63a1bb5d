"""Values that say how parts fit: widths, shapes, data; and the tensors that parts hand over. Imports no torch."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import attrs

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    `extras`, name -> shape without B (None = free), e.g. ``{"t5": (None, 4096), "fps": ()}``; `tokens`, name -> width
    of a set of tokens by itself.

    `join` says how the conditioner's crossattn joins that of the conditioners beside it: by ``length``, one after the
    other along L; or by ``width``: neighbours that all say so stand side by side along D, token i beside token i.
    `pad_to`: zeros fill each joint token up to this width; 0 = none. SDXL: 768 ‖ 1280, both by width. SD 3:
    768 ‖ 1280, both by width and padded to 4096, and a third of 4096 by length.
    """

    crossattn: int = 0
    vector: int = 0
    concat: int = 0
    residuals: tuple[str, ...] = ()
    extras: Mapping[str, tuple[int | None, ...]] = attrs.field(default=EMPTY)
    tokens: Mapping[str, int] = attrs.field(default=EMPTY)
    join: Literal["length", "width"] = attrs.field(
        default="length", validator=attrs.validators.in_(("length", "width"))
    )
    pad_to: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    @staticmethod
    def merge(specs: Mapping[str, CondSpec]) -> CondSpec:
        """Merge the specs of named conditioners as :meth:`ldm_core.contracts.conditioning.Cond.merge` merges their
        bundles.

        Raises ValueError naming both conditioners where the widths of cross-attention or of a named set of tokens
        differ, `pad_to` is too small or said twice, or an extra comes twice.
        """
        groups = list(joined(specs))
        for group in groups[1:]:
            if group.width != groups[0].width:
                raise ValueError(_unequal(groups[0], group))
        extras: dict[str, tuple[int | None, ...]] = {}
        tokens: dict[str, int] = {}
        owners: dict[str, str] = {}
        residuals: list[str] = []
        for name, spec in specs.items():
            for key, shape in spec.extras.items():
                if key in extras:
                    raise ValueError(
                        f"conditioners '{owners[key]}' and '{name}' both write the extra '{key}'; drop one"
                    )
                extras[key], owners[key] = shape, name
            for key, width in spec.tokens.items():
                if tokens.setdefault(key, width) != width:
                    other = next(n for n, s in specs.items() if key in s.tokens)
                    raise ValueError(
                        f"conditioner '{other}' writes the tokens '{key}' with width {tokens[key]} and '{name}' with "
                        f"{width}; set one width for both, or drop one"
                    )
            residuals += [site for site in spec.residuals if site not in residuals]
        return CondSpec(
            crossattn=groups[0].width if groups else 0,
            vector=sum(s.vector for s in specs.values()),
            concat=sum(s.concat for s in specs.values()),
            residuals=tuple(residuals),
            extras=extras,
            tokens=tokens,
        )


class Joined(NamedTuple):
    """Conditioners whose crossattn stands side by side: `names`, and the `width` of their joint tokens."""

    names: tuple[str, ...]
    width: int


def joined(specs: Mapping[str, CondSpec]) -> Iterator[Joined]:
    """Yield the groups of conditioners that join by width; one that joins by length is a group of itself.

    Raises ValueError where members ask for different `pad_to`, or for one below their widths' sum.
    """
    groups: list[dict[str, CondSpec]] = []
    for name, spec in specs.items():
        beside = spec.join == "width" and groups and next(reversed(groups[-1].values())).join == "width"
        if spec.crossattn and beside:
            groups[-1][name] = spec
        elif spec.crossattn:
            groups.append({name: spec})
    for group in groups:
        wanted = {spec.pad_to: name for name, spec in group.items() if spec.pad_to}
        width = sum(spec.crossattn for spec in group.values())
        if len(wanted) > 1:
            said = " and ".join(f"'{name}' to {pad}" for pad, name in wanted.items())
            raise ValueError(
                f"conditioners join by width, and their joint tokens are padded {said}; set one pad_to for both"
            )
        pad = next(iter(wanted), width)
        if pad < width:
            parts = " and ".join(f"'{name}' ({spec.crossattn})" for name, spec in group.items())
            raise ValueError(
                f"conditioner '{wanted[pad]}' pads its tokens to width {pad}, and {parts} make {width}; set a "
                f"pad_to of at least {width}, or 0"
            )
        yield Joined(tuple(group), pad)


def _unequal(one: Joined, other: Joined) -> str:
    """The error of two groups whose tokens cannot follow each other."""
    first, second = (" and ".join(f"'{name}'" for name in group.names) for group in (one, other))
    if len(one.names) == len(other.names) == 1:
        return (
            f"conditioner {first} has cross-attention width {one.width} and {second} {other.width}; set one width for "
            f"both, e.g. conditioners.{other.names[0]}.width={one.width}"
        )
    return (
        f"conditioners {first} have together cross-attention width {one.width} and {second} {other.width}, and follow "
        "each other along L; give both one width (pad_to fills up with zeros)"
    )


@attrs.frozen
class Accepts:
    """The parts of a conditioning bundle that a denoiser, guidance, adapter or objective uses; ``extras``, ``tokens``
    and ``options`` by name.

    A denoiser's config has it as the attribute `accepts`; without one, everything but extras, named tokens and options
    is taken as accepted.
    """

    crossattn: bool = True
    vector: bool = True
    concat: bool = True
    residuals: bool = True
    extras: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


SIZE_KEYS = ("original_size", "crop_offset", "target_size")
"""Batch keys of any data with pictures, each (B, 2) int64, rows and columns in pixels, written where a conditioner
reads them. `original_size` (h, w): the picture as it is stored, upright. `crop_offset` (top, left): the cut's place in
the resized picture, negative where the picture is padded; of a mirrored picture, its place in the mirrored one.
`target_size` (h, w): the picture as it is trained on, of a bucket that bucket's. In sampling they are the sampled size
and offset 0 unless they are given. A data set's own keys of these names stand in their place."""


@attrs.frozen
class KeyForm:
    """The form of a key's values, for people: `words` about one value ("up to 30"), an `example` of it as plain JSON,
    None for none, and its `geometry` as data sets say it ("image", "map", "boxes", "per_box"), "" for a value.

    A config says the forms of keys that it reads, and of no others."""

    words: str = ""
    example: Any = None
    geometry: str = ""


@attrs.frozen
class DataInfo:
    """The offer of a data set: `keys` name -> geometry, `classes` name -> count, `class_names` where known;
    `lacks`, why keys that one might expect are not offered; `widths` name -> length of vectors, where known;
    `remarks`, what is left out of it or seems odd; `palettes` name -> red, green, blue and class of label maps'
    colours, where they have some."""

    keys: Mapping[str, str]
    classes: Mapping[str, int] = attrs.field(default=EMPTY)
    class_names: Mapping[str, tuple[str, ...]] = attrs.field(default=EMPTY)
    lacks: Mapping[str, str] = attrs.field(default=EMPTY)
    widths: Mapping[str, int] = attrs.field(default=EMPTY)
    remarks: str = attrs.field(default="", eq=False)
    palettes: Mapping[str, Sequence[tuple[int, int, int, int]]] = attrs.field(default=EMPTY)

    def offers(self, key: str) -> bool:
        """True of a key that the data set has, or that is written beside its pictures (:data:`SIZE_KEYS`)."""
        return key in self.keys or (key in SIZE_KEYS and "image" in self.keys and key not in self.lacks)


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
    the stage's ``diagnostics(logs)``, where it has one, which makes scalars of them. `z` (B, C, *s): the raw latents of
    the pass, before normalisation and quantisation, with their graph; a draw where the stage draws.
    """

    image: Tensor
    regularization: Tensor
    logs: Mapping[str, Tensor] = EMPTY
    z: Tensor | None = None


Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic inside the networks."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


@attrs.frozen
class WeightSlice:
    """Rows (output channels) of a weight of a part: the `parameter` by its name in the part's state, and half-open
    ranges of rows in their order; none = all rows."""

    parameter: str
    rows: tuple[tuple[int, int], ...] = ()

    @property
    def index(self) -> list[int]:
        """The numbers of the rows, one after the other; empty for all rows."""
        return [row for begin, end in self.rows for row in range(begin, end)]


class BlockSpan(NamedTuple):
    """Blocks of a denoiser that a cache leaves out at some steps of a run, and gives their last output of before.

    `blocks`, modules of the denoiser, are called once an evaluation, in this order. Each takes the features as its
    first argument and gives one tensor, with the batch's rows first. Outside of the span nobody reads any output but
    the last one's, and nobody changes one in place: without the others, and with the last one as it was, F is the same
    to the bit. `residual`: that output has the shape of what enters the span and is it with something added, as the
    stream of a transformer, so that a cache keeps the difference. Else F sees x by a way around the span as well, as by
    a U-Net's skips. Several spans stand the largest first, each one inside the one before.
    """

    blocks: Sequence[nn.Module]
    residual: bool = False
