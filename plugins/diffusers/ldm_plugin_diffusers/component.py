"""A component of a folder: to be read, with its weights under both names, and to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from ldm_core.contracts.values import CondSpec, LatentSpec
from ldm_plugin_diffusers.values import Plain
from ldm_plugin_diffusers.weights import Stored, Taken, Weight, take

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(kw_only=True)
class ReadPart:
    """A component as its config describes it: our component `use` with its `fields`, and its `weights`.

    `stored` has its tensors, `kind` is the word of a recognised source for it, and `prefix` stands before its
    names in a model. A denoiser has `latent` and `cond`.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str] = ""
    use: str
    fields: Plain
    weights: Sequence[Weight]
    stored: Stored
    ignored: Sequence[str] = ()
    notes: Sequence[str] = ()
    latent: LatentSpec | None = None
    cond: CondSpec | None = None

    def recipe(self) -> dict[str, Any]:
        """Plain recipe values."""
        return {self.kind: {"use": self.use, **self.fields}}

    def read(self) -> Taken:
        """The tensors under a model's names."""
        taken = take(self.weights, self.stored, ignored=self.ignored)
        return attrs.evolve(taken, tensors={self.prefix + name: tensor for name, tensor in taken.tensors.items()})


@attrs.frozen(kw_only=True)
class WrittenPart:
    """A component to be written: its config.json and its tensors under their names."""

    class_name: str
    config: Plain
    tensors: Mapping[str, Tensor]
    notes: Sequence[str] = ()
