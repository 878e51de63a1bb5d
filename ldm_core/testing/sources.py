"""Sources for the suite of codecs: a counting one, files of no format, broken copies, and pickles with code."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.contracts.codec import Source, TensorFile


class Watched:
    """A source that counts the values read through it: of the `largest` tensor, and in `total`."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.url, self.folder, self.given = inner.url, inner.folder, inner.given
        self.largest = self.total = 0

    @property
    def names(self) -> Sequence[str]:
        """As the inner one's."""
        return self.inner.names

    def tensors(self, name: str = "") -> TensorFile:
        """As the inner one's, watched."""
        return WatchedFile(self, self.inner.tensors(name))

    def config(self, name: str) -> Mapping[str, Any] | None:
        """As the inner one's."""
        return self.inner.config(name)

    def text(self, name: str, *, limit: int = 16 << 20) -> bytes | None:
        """As the inner one's."""
        return self.inner.text(name, limit=limit)

    def sha256(self) -> str:
        """As the inner one's."""
        return self.inner.sha256()


class WatchedFile:
    """One file of a :class:`Watched` source."""

    def __init__(self, source: Watched, inner: TensorFile) -> None:
        self.source, self.inner = source, inner
        self.url, self.container, self.infos, self.metadata = inner.url, inner.container, inner.infos, inner.metadata

    def read(self, name: str) -> Tensor:
        """As the inner one's, counted."""
        tensor = self.inner.read(name)
        self._counted(tensor.numel())
        return tensor

    def span(self, name: str) -> np.ndarray:
        """As the inner one's, counted."""
        self._counted(math.prod(self.infos[name].shape))
        return self.inner.span(name)

    def _counted(self, values: int) -> None:
        self.source.largest = max(self.source.largest, values)
        self.source.total += values


def put(files: Mapping[str, Callable[[], bytes]], folder: Path, name: str) -> Path:
    """Write what a codec made below `folder`; the file, or the folder of files."""
    root = folder / name
    for relative, content in files.items():
        path = root / relative if relative else root
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content())
    return root


def foreign(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and folders that are no format of a model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.safetensors"
    save_file({"table": torch.zeros(3), "other.weight": torch.zeros(2, 2)}, str(table))
    yield "a table of numbers", table
    lora = folder / "lora.safetensors"
    save_file({"lora_unet_mid.lora_up.weight": torch.zeros(4, 2), "lora_unet_mid.alpha": torch.ones(())}, str(lora))
    yield "an adapter's file", lora
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    (notes / "config.json").write_text('{"title": "a diary"}')
    (notes / "readme.md").write_text("# Notes\n")
    yield "a folder of notes", notes
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    yield "an empty folder", empty


def contents_of(path: Path) -> dict[str, bytes]:
    """The bytes of a file (under the name ``""``) or of all files of a folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def broken(whole: Path, folder: Path, most: int) -> Iterator[tuple[str, Path]]:
    """Copies of a file or folder, each with one thing wrong."""
    from safetensors import safe_open
    from safetensors.torch import save

    contents = contents_of(whole)
    rng = random.Random(0)
    number = 0

    def copy(name: str, data: bytes) -> Path:
        nonlocal number
        number += 1
        files = {**contents, name: data}
        return put({k: partial(bytes, v) for k, v in files.items()}, folder / f"broken-{number}", whole.name)

    for name, data in contents.items():
        for share in (0.0, 0.3, 0.9):
            yield f"{name or 'the file'} cut to {share:.0%}", copy(name, data[: int(len(data) * share)])
        if name.endswith(".json"):
            yield from _other_configs(name, json.loads(data), copy, rng, most)
        path = whole / name if name else whole
        if not path.name.endswith(".safetensors"):
            continue
        with safe_open(str(path), "pt") as file:
            meta = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (it is no mapping)
        names = sorted(tensors)
        for victim in rng.sample(names, min(most, len(names))):
            rest = {k: v for k, v in tensors.items() if k != victim}
            value = tensors[victim]
            wider = torch.zeros(*value.shape[:-1], value.shape[-1] + 1) if value.dim() else torch.zeros(3)
            for what, changed in (
                (f"without {victim}, a tensor", rest),
                (f"with {victim} renamed, a tensor", {**rest, f"{victim}.x": value}),
                (f"with {victim} of another shape, a tensor", {**rest, victim: wider}),
                (f"with {victim} of no value, a tensor", {**rest, victim: torch.zeros(0)}),
            ):
                yield what, copy(name, save(changed, metadata=meta))


RAN: list[str] = []
"""Names of the pickles whose code has run."""


def fire(name: str) -> None:
    """The code of a pickle of :func:`armed`."""
    RAN.append(name)


class _Armed:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return fire, (self.name,)


def armed(whole: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Copies of a file or folder, each with a pickle that runs code in the place of one file, by several suffixes."""
    RAN.clear()
    contents = contents_of(whole)
    sorts: Mapping[str, Callable[[Any], bytes]] = {"a pickle": pickle.dumps, "a file of torch": _by_torch}
    tried = (("a pickle", ""), ("a file of torch", ""), ("a file of torch", ".bin"))
    for number, (name, (sort, suffix)) in enumerate(itertools.product(contents, tried)):
        place = Path(name or whole.name)
        place = place.with_suffix(suffix or place.suffix)
        files = {k: partial(bytes, v) for k, v in contents.items() if k != name}
        armed_file = partial(sorts[sort], _Armed(f"{sort} as {place}"))
        root = folder / f"armed-{number}"
        if name:
            yield f"{sort} as {place}", put({**files, str(place): armed_file}, root, whole.name)
        else:
            yield f"{sort} as {place}", put({"": armed_file}, root, place.name)


def _by_torch(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": value}, buffer)
    return buffer.getvalue()


def _other_configs(
    name: str, plain: Any, copy: Callable[[str, bytes], Path], rng: random.Random, most: int
) -> Iterator[tuple[str, Path]]:
    if not isinstance(plain, dict):
        return
    for key in rng.sample(sorted(plain), min(most, len(plain))):
        values: tuple[Any, ...] = (None, -1, "nonsense", [[]], {"a": 1}, 10**9)
        for value in values:
            yield f"{name} with {key}={value!r}", copy(name, json.dumps({**plain, key: value}).encode())
    for text in ("[]", "3", '"text"', "null"):
        yield f"{name} that is {text}", copy(name, text.encode())
