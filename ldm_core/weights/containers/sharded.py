"""Several files of tensors that are one, by the index beside them: ``{"weight_map": {tensor: file}}``. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.codec import TensorFile, TensorInfo
from ldm_core.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MOST_FILES = 1000


class ShardedFile:
    """See :class:`ldm_core.contracts.codec.TensorFile`. `index` is the index's content, `opened` opens a file beside
    it.

    Every tensor of the index must be in its file, and every tensor of a file in the index: CheckpointError else.
    """

    def __init__(self, url: str, index: Mapping[str, Any], opened: Callable[[str], TensorFile]) -> None:
        self.url = url
        places = index.get("weight_map")
        if not isinstance(places, Mapping) or not places:
            raise CheckpointError(f"{url}: is no index of weights (it has no 'weight_map')")
        if any(type(file) is not str or "/" in file or file in ("", ".", "..") for file in places.values()):
            raise CheckpointError(f"{url}: its 'weight_map' names what is no file beside it")
        names = sorted(set(places.values()))
        if len(names) > _MOST_FILES:
            raise CheckpointError(f"{url}: names {len(names):,} files, more than any model has")
        files = {name: opened(name) for name in names}
        held = {tensor: name for name, file in files.items() for tensor in file.infos}
        wrong = next((t for t in {**places, **held} if places.get(t) != held.get(t)), None)
        if wrong is not None or sum(len(file.infos) for file in files.values()) != len(held):
            where = f"'{str(wrong)[:100]}'" if wrong is not None else "a tensor"
            raise CheckpointError(f"{url}: the index and its files do not fit at {where}; are they of one version?")
        self._files = {tensor: files[name] for tensor, name in held.items()}
        self.container = files[names[0]].container
        self.infos: Mapping[str, TensorInfo] = {t: file.infos[t] for t, file in self._files.items()}
        self.metadata: Mapping[str, str] = {k: v for file in files.values() for k, v in file.metadata.items()}
        self.ignored: Mapping[str, str] = {
            k: v for file in files.values() for k, v in getattr(file, "ignored", {}).items()
        }

    def read(self, name: str) -> Tensor:
        """The tensor; see :meth:`ldm_core.contracts.codec.TensorFile.read`."""
        return self._file_of(name).read(name)

    def span(self, name: str) -> np.ndarray:
        """Its bytes; see :meth:`ldm_core.contracts.codec.TensorFile.span`."""
        return self._file_of(name).span(name)

    def _file_of(self, name: str) -> TensorFile:
        if name not in self._files:
            raise CheckpointError(f"{self.url}: holds no tensor '{name}'")
        return self._files[name]
