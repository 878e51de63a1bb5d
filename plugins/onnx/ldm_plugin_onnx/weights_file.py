"""The one file of weights: safetensors, with the recipe in its header. Networks refer to it by place and length.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from ldm_core.contracts.codec import ModelWeights, TensorFile
from ldm_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "weights.safetensors"
PARTS = ("first_stage", "model")
"""The parts of a model, each a prefix of its tensors' names."""
_KEY, _FORMAT = "ldm_onnx", 1


@attrs.frozen
class Description:
    """The header's words on the weights: their recipe, as plain values, and the names of classes by key."""

    recipe: Mapping[str, Any]
    class_names: Mapping[str, Sequence[str]]


def described(file: TensorFile) -> Description | None:
    """The description in the header; None without one of ours, CheckpointError for a damaged or newer one."""
    if (text := file.metadata.get(_KEY)) is None:
        return None
    try:
        body = json.loads(text)
        said, recipe, names = body["format"], body["recipe"], body["class_names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = recipe = names = None
    if said != _FORMAT or not isinstance(recipe, dict) or not isinstance(names, dict):
        raise CheckpointError(
            f"{file.url}: its header is damaged, or of a later version of ldm-plugin-onnx; copy it again, or update"
        )
    lists = {key: [str(name) for name in each] for key, each in names.items() if isinstance(each, list)}
    return Description(recipe, lists)


@attrs.frozen(eq=False)
class WeightsFile:
    """The file to be written: `tensors` by their names in it, and its `metadata`."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, weights: ModelWeights) -> WeightsFile:
        """The file of all tensors of `weights`."""
        parts = zip(PARTS, (weights.first_stage, weights.model), strict=True)
        tensors = {f"{part}.{name}": value for part, own in parts for name, value in (own or {}).items()}
        names = {key: list(each) for key, each in weights.class_names.items()}
        body = {"format": _FORMAT, "recipe": dict(weights.recipe), "class_names": names}
        return cls(tensors, {_KEY: json.dumps(body, sort_keys=True)})  # the library's order of several is any

    def write(self, file: BinaryIO) -> None:
        """Write it, tensor by tensor."""
        from ldm_core.model.fill import write_tensors

        write_tensors(file, self.tensors, self.metadata)

    def whole(self) -> bytes:
        """Its bytes."""
        from ldm_core.model import fill

        return fill.whole(self.write)

    def places(self) -> dict[str, tuple[int, int]]:
        """The place and the length of each tensor, in bytes from the beginning of the file."""
        first = _Beginning()
        with contextlib.suppress(_Enough):
            self.write(first)  # type: ignore[arg-type]
        header = json.loads(first.data[8:])
        spans = {name: each["data_offsets"] for name, each in header.items() if name != "__metadata__"}
        return {name: (len(first.data) + begin, end - begin) for name, (begin, end) in spans.items()}


class _Enough(Exception):
    """The header is written."""


class _Beginning:
    """A file for one piece, the header, and no more."""

    data = b""

    def write(self, data: bytes) -> int:
        if self.data:
            raise _Enough
        self.data = data
        return len(data)
