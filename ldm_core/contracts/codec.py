"""Files of other programs: their weights, in and out, and boxes that they found in pictures. Imports no torch.

A codec is a component of the kind ``codec``. It knows one format, and nothing of containers: files are opened by
:mod:`ldm_core.weights`, which never runs what it reads and checks every size before memory is taken. It knows nothing
of live modules either: it answers with plain recipe values and with tensors under this package's own names, and the
core builds, saves and samples from there. So a format that names a component (``use: kl_ae``) needs no import of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, TypeGuard, runtime_checkable

import attrs

from ldm_core.contracts.values import EMPTY, CondSpec, LatentSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@attrs.frozen
class TensorInfo:
    """One stored tensor: `dtype` in torch's words (``float32``, ``bfloat16``), `shape`, and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@runtime_checkable
class TensorFile(Protocol):
    """One file of named tensors. Names are those of the state dict, whatever it was wrapped in.

    `infos`: name -> :class:`TensorInfo`, in the file's order. `metadata`: strings of a safetensors header, or the
    scalars of a pickled checkpoint (``global_step``, ``epoch``) as text. `container`: ``safetensors``, ``torch zip``
    or ``torch legacy``.
    """

    url: str
    container: str
    infos: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in its stored dtype, contiguous; CheckpointError where its bytes are damaged."""
        ...

    @abstractmethod
    def span(self, name: str) -> np.ndarray:
        """The bytes that the tensor spans, uint8 (bytes,), without torch; CheckpointError where they are damaged."""
        ...


@runtime_checkable
class Source(Protocol):
    """Weights as they lie: one file, or a folder of files; local by now, wherever they came from.

    `url`: as the user gave it, for messages. `folder`: whether it is a folder. `names`: for a folder, the relative
    paths of its files (``unet/config.json``); for a file, the names of the files beside it. `given`: plain recipe
    values that the user gave (``{"image_size": 256, "denoiser": {"heads": 8}}``), which overrule what is recognised.
    """

    url: str
    folder: bool
    given: Mapping[str, Any]

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The relative paths of a folder's files; for a file, the names of those beside it."""
        ...

    @abstractmethod
    def tensors(self, name: str = "") -> TensorFile:
        """The tensors of the file itself, or of one file of the folder; by the name of an index (``*.index.json``),
        of all the files that it makes one. Opened once. CheckpointError if damaged."""
        ...

    @abstractmethod
    def config(self, name: str) -> Mapping[str, Any] | None:
        """A JSON or YAML file of the folder, or beside the file, as plain values; None where there is none."""
        ...

    @abstractmethod
    def text(self, name: str, *, limit: int = 16 << 20) -> bytes | None:
        """A small file's bytes (a vocabulary); None where there is none; CheckpointError above `limit`."""
        ...

    @abstractmethod
    def sha256(self) -> str:
        """64 hex digits: the file's SHA-256; for a folder, the SHA-256 of the lines ``NAME HASH`` (sorted, each with a
        newline) of its files that were asked for so far by any of the methods above, absent ones left out."""
        ...


def overlay(plain: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Plain recipe values with those that the user gave on top: what a codec does with :attr:`Source.given`.

    Mappings merge, a component named otherwise (``use``) takes the place of the former, members of a list
    (``conditioners``) are known by their ``name`` or ``use``; one that is not there is added. Members that are given as
    a list, or one by its bare name, take the place of all, and keep what is known of the same component.
    """
    out = dict(plain)
    for key, value in given.items():
        before = out.get(key)
        if isinstance(before, str) and isinstance(value, Mapping) and "use" not in value:
            before = {"use": before}
        if _of_parts(before) and (not isinstance(value, Mapping) or isinstance(value.get("use"), str)):
            out[key] = _chosen(before, value)
        elif _named(before) and isinstance(value, Mapping):
            out[key] = _members(before, value)
        elif not isinstance(before, Mapping) or not isinstance(value, Mapping):
            out[key] = value
        elif "use" in value and value["use"] != before.get("use"):
            out[key] = dict(value)
        else:
            out[key] = overlay(before, value)
    return out


def _of_parts(value: Any) -> TypeGuard[Sequence[Any]]:
    """True if a value is a list of components with their settings."""
    return isinstance(value, list | tuple) and any(isinstance(row, Mapping) and "use" in row for row in value)


def _named(value: Any) -> TypeGuard[Sequence[Any]]:
    """True if a value is a list whose members have names: components, with or without settings."""
    return isinstance(value, list | tuple) and all(isinstance(row, Mapping | str) for row in value)


def _chosen(before: Sequence[Any], given: Any) -> Any:
    if not isinstance(given, list | tuple | str | Mapping):
        return given
    rows: list[Any] = []
    for row in given if isinstance(given, list | tuple) else [given]:
        own = {"use": row} if isinstance(row, str) else row
        use = own.get("use") if isinstance(own, Mapping) else None
        like = next((r for r in before if isinstance(r, Mapping) and use is not None and r.get("use") == use), None)
        rows.append(row if like is None else overlay(like, own))
    return rows


def _members(before: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
    rows: list[Any] = [{"use": row} if isinstance(row, str) else dict(row) for row in before]
    for name, value in given.items():
        row = next((i for i, r in enumerate(rows) if name in (r.get("name"), r.get("use"), str(i))), None)
        if row is None:
            rows.append({"use": name, **value} if isinstance(value, Mapping) else value)
        else:
            rows[row] = overlay(rows[row], value) if isinstance(value, Mapping) else value
    return rows


@attrs.frozen(kw_only=True)
class Recognised:
    """A codec's account of a source, from names, shapes and configs alone, before any weight is read.

    `what`: in words, for people (``Stable Diffusion 1 (text to image)``). `holds`: ``model`` (first stage and
    denoiser), ``first_stage``, ``denoiser``, ``conditioner`` or ``adapter`` (then `adapters` of the recipe has one
    row). `recipe`: plain recipe values as far as they are known, :attr:`Source.given` included. `unknown`: settings
    that nothing says, by dotted path with the candidates (``{"denoiser.heads": (1, 4, 8)}``); reading refuses while
    there are any. `notes`: how the rest came to be known, and what will be left out, a line each. `ema`: whether
    averaged weights are there. `parameters`: how many, by part.
    """

    what: str
    holds: str
    recipe: Mapping[str, Any] = EMPTY
    unknown: Mapping[str, Sequence[Any]] = EMPTY
    notes: Sequence[str] = ()
    ema: bool = False
    parameters: Mapping[str, int] = EMPTY


@attrs.frozen(kw_only=True)
class ModelWeights:
    """Weights of a model or of a part of one, in this package's names.

    `recipe`: plain recipe values; at least the parts whose weights are here, completely, and where `model` is there
    also `image_size`, `schedule` and `parameterization`. `first_stage`: as a FirstStage's ``state_dict()``,
    normalisation included. `model`: as ``Model.state_dict()``: ``denoiser.*``, ``conditioners.NAME.*``. A denoiser or
    conditioner by itself comes without `first_stage`, with `latent` and `cond`, the widths that it was built for.
    `adapter`: an adapter's ``state_dict()``, alone: the recipe's one row in `adapters` is its component, and `base` the
    hash of the model's file that it was trained on, for people, where it is known.
    `class_names`: names of the classes by batch key, where the source says them.
    `missing` and `unexpected`: names outside the codec's allow-list; the core refuses where there are any, unless
    taking a part was asked for. `notes`: what was chosen or left out. `kept`: by a codec's name, what only its format
    has, for the same codec to write it again.
    """

    recipe: Mapping[str, Any]
    first_stage: Mapping[str, Tensor] | None = None
    model: Mapping[str, Tensor] | None = None
    adapter: Mapping[str, Tensor] | None = None
    base: str = ""
    latent: LatentSpec | None = None
    cond: CondSpec | None = None
    class_names: Mapping[str, Sequence[str]] = EMPTY
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    notes: Sequence[str] = ()
    kept: Mapping[str, Mapping[str, Any]] = EMPTY

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, whatever they are of; names of the first stage, the model and an adapter do not meet."""
        return {**(self.first_stage or {}), **(self.model or {}), **(self.adapter or {})}


@attrs.frozen(kw_only=True)
class Written:
    """The files that a codec writes: every one by relative path (the only key ``""`` for a format of one file)
    with a function that gives its bytes, the one that makes the rest valid last; `notes`: what the format cannot carry.
    `beside`: of a format of one file, further files in the same folder that others' programs want (a configuration).
    `writers`: for any of `files`, a function that writes the same bytes into an open binary file, piece by piece. The
    core calls it in place of the other one, so that a large file is never whole in memory.
    """

    files: Mapping[str, Callable[[], bytes]]
    beside: Mapping[str, Callable[[], bytes]] = EMPTY
    notes: Sequence[str] = ()
    writers: Mapping[str, Callable[[BinaryIO], object]] = EMPTY


@runtime_checkable
class Codec(Protocol):
    """Reads and writes one format. Provisional. Its factory is called as every component's, ``factory(config, site)``;
    the site says the catalog alone. The config's fields are the format's own options (``codec.ema=false``).

    It reads a source through the methods of :class:`Source` alone, which run nothing that a file holds: no pickle, no
    code. A damaged file is a CheckpointError, never another exception. It touches no global state.
    """

    @abstractmethod
    def recognise(self, source: Source) -> Recognised | None:
        """The account of this source, from names, shapes and configs, or None for another format. Reads no tensor of
        more than a few thousand values. An equal source is recognised equally. CheckpointError where it is this format
        and damaged."""
        ...

    @abstractmethod
    def read(self, source: Source) -> ModelWeights:
        """The weights in our names, to the bit, no tensor left out unsaid: `missing` and `unexpected` name the rest.
        ConfigError naming the candidates while something is unknown."""
        ...

    @abstractmethod
    def write(self, weights: ModelWeights, name: str) -> Written:
        """The files of this format for `weights`, whose recipe is complete (as ``Recipe.plain()``). `name`: the last
        part of the destination, whose suffix says the container. An adapter is handed to a codec whose config says
        ``writes_adapters = True``, and to no other. ConfigError, all lines at once, where the format
        cannot hold the model, before any file is written: the core writes what the functions of the result give. Equal
        weights give equal bytes, and every tensor comes back by :meth:`read`."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Annotated:
    """The boxes of one picture, or some of them: several of one picture are put together in their order. Provisional.

    `picture`: its name in the file. `boxes` (N, 4) numbers x, y of the upper left and of the lower right corner, in
    `units`: shares of the sides, or pixels of `size` (height, width), by itself the picture's own. `labels` (N,):
    classes by names, or by numbers from 0 on. `place`: file and line, for messages.
    """

    picture: str
    boxes: Any
    labels: Sequence[int | str]
    units: Literal["fraction", "pixel"] = "fraction"
    size: tuple[float, float] | None = None
    place: str = ""


@attrs.frozen(kw_only=True, eq=False)
class Annotations:
    """Content of files: `rows`, read once; `class_names`, () without a list; `left_out`, no objects, by kind."""

    rows: Iterable[Annotated]
    class_names: Sequence[str] = ()
    left_out: Counter[str] = attrs.field(factory=Counter)


@runtime_checkable
class AnnotationFiles(Protocol):
    """Files open to a format: `names`, the paths of those named by the user; `beside`, of others in their folders and
    above, such as lists of classes. `pictures`: the paths of all pictures of the split. Provisional."""

    names: Sequence[str]
    beside: Sequence[str]
    pictures: Sequence[str]

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one of those, or its first `most`; DataError for a file that is too large to be read whole."""
        ...

    @abstractmethod
    def lines(self, name: str) -> Iterator[str]:
        """Its lines as UTF-8 text, one after the other; DataError for other text and for a line beyond a megabyte."""
        ...


@runtime_checkable
class AnnotationFormat(Protocol):
    """Reads one format. Provisional. Its factory is called as every component's, ``factory(config, site)``.

    It reads through :class:`AnnotationFiles` alone, runs nothing that a file holds and follows no name in one. A
    mistake in a file is a DataError of one line with file and place, never another exception.
    """

    @abstractmethod
    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """Those of ``files.names`` that it reads, by names and beginnings; () for files of another format."""
        ...

    @abstractmethod
    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """The annotations in the files `names`, given by :meth:`recognise`."""
        ...
