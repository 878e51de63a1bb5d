"""The place of a component in a model: sizes, latents, conditioning. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ldm_core.contracts.values import CondSpec, LatentSpec, Precision

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts.provisional import Parameterization


class FileCache(Protocol):
    """Local copies of remote files, and notes about files, for the readers of data sets."""

    def copy(self, file: Any) -> Path | None:
        """The local copy of a remote file (a :class:`ldm_core.storage.FileInfo`), fetched once; None without room."""
        ...

    def recall(self, *key: object) -> bytes | None:
        """The note that was kept under `key`, or None."""
        ...

    def remember(self, data: bytes, *key: object) -> None:
        """Keep a note under `key`."""
        ...


@attrs.frozen
class Site:
    """The model around a component, as far as it may know it; filled in build order.

    `size` (H, W) and `channels` of the images; `latent`, from conditioners on; `cond`, the merged conditioning, from
    the denoiser on; `encode` (B, c, H, W) -> (B, C, *s) (the mode, no gradient) and `decode` (gradients pass to latents
    that ask for them), functions and not the module, so that nothing registers the first stage twice. For data sets:
    `cache`, where copies of remote files are kept. For samplers and guidances: `parameterization`, what the network
    puts out, `first_stage`, the SHA-256 of the first stage's file where it is known, by which another model's latents
    are told to be the same, and `precision`, of the networks' arithmetic. `catalog`, the run's
    :class:`ldm_core.catalog.Catalog`: for guidances to make a second model, and for data sets.
    """

    size: tuple[int, ...]
    channels: int = 3
    latent: LatentSpec | None = None
    cond: CondSpec = attrs.field(factory=CondSpec)
    encode: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    cache: FileCache | None = None
    parameterization: Parameterization | None = None
    first_stage: str = ""
    precision: Precision = "fp32"
    catalog: object | None = None
