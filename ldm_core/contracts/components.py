"""The stable four, which users subclass: FirstStage, Conditioner, Denoiser and Sampler.

A subclass that forgets a method fails at construction with the method's name. :mod:`ldm_core.contracts` says who owns
device, mode, freezing and parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.provisional import NoiseSchedule, cooperative_init
from ldm_core.contracts.values import Batch, CondSpec, Denoise, LatentSpec, OnStep

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts.streams import Streams


@runtime_checkable
class FirstStage(Protocol):
    """Images to latents and back; a ``torch.nn.Module``. Stable API.

    It owns its latent normalisation: what :meth:`latents` returns is close to N(0, 1), and no factor lives elsewhere.
    Its config has the attribute `latent`, without torch, equal to the stage's own. One that is to be trained here is a
    :class:`~ldm_core.contracts.TrainableStage` too. By ``encode_in_pieces`` and ``decode_in_pieces``, of
    :class:`~ldm_core.contracts.FirstStageAnswers`, it may take large pictures: their results are those of the whole to
    rounding, within whatever memory. Ownership of device, mode, freezing and parameters: see
    :mod:`ldm_core.contracts`.
    """

    latent: LatentSpec
    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B, c, H, W) in [-1, 1] -> moments (B, M, *s): deterministic, raw, cacheable.

        Moments do not depend on the normalisation. A size that does not divide into latents is a ValueError naming the
        size and the factor: ``self.latent.shape(x.shape[2:])`` raises it.
        """
        ...

    @abstractmethod
    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Moments (B, M, *s) -> normalised latents (B, C, *s); `streams` None = the mode, else one draw each.

        Equal streams give equal latents, and row i is drawn from stream i alone: ``streams.normal(shape)``.
        """
        ...

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, *s) -> images (B, c, H, W) on the scale of [-1, 1], not clamped; a VQ stage
        quantises first."""
        ...

    @abstractmethod
    def project(self, z: Tensor) -> Tensor:
        """The nearest latent that can be meant: VQ codes, pixels clamped; a KL stage returns `z`. Projecting twice is
        projecting once."""
        ...

    @abstractmethod
    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and std (C,) of raw latents, measured by the core after training; saved with the weights.

        From then on latents are (raw - mean) / std, and :meth:`decode` undoes it.
        """
        ...


@runtime_checkable
class Conditioner(Protocol):
    """Turns a batch into conditioning; a ``torch.nn.Module``. Stable API.

    `spec` holds the widths that it writes, `reads` the batch keys that it touches, no more and no fewer. Its config has
    `reads` and ``spec(latent) -> CondSpec`` too, without torch, and says the same. Encode and null together reach every
    parameter with a gradient. :class:`~ldm_core.contracts.ConditionerConfig` lists the config's optional answers (class
    counts from the data, sizes of inputs, trained weights), :class:`~ldm_core.contracts.ConditionerAnswers` the
    conditioner's own (a tokenizer to learn, tables of classes, known pixels). Ownership of device, mode, freezing and
    parameters: see :mod:`ldm_core.contracts`.
    """

    spec: CondSpec
    reads: tuple[str, ...]
    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def encode(self, batch: Batch) -> Cond:
        """A collated batch with the keys `reads` -> a bundle of B rows. Row i depends on example i alone, and other
        examples give other rows. Tokens that pad a row to the batch's longest are masked; a mask is bool, True =
        attend, and attends to one token of each row at least. Named sets of tokens (``Cond.tokens``) have the same
        rules.

        One whose config says `draws` takes the optional keyword ``streams: Streams | None = None``, one stream an
        example: it draws all its noise from them, row i from stream i alone, and equal streams give equal bundles.
        Without streams it takes the deterministic mode, and draws nothing. Others are called ``encode(batch)``.
        """
        ...

    @abstractmethod
    def null(self, like: Cond) -> Cond:
        """The bundle that stands for "no condition": same parts, shapes, dtype and device as `like`, an encode of
        this conditioner. It says nothing of the examples. Returns `like` itself where guidance must not drop it (masks,
        low-resolution images)."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """The network F; a ``torch.nn.Module``. Stable API.

    Built from ``factory(config, site)``, where ``site.latent`` and ``site.cond`` say the widths. It knows nothing of
    alpha and sigma: `noise_level` is what the schedule tells it. It may have ``prepare``, ``recompute_blocks`` and
    ``reusable_spans``, of :class:`~ldm_core.contracts.DenoiserAnswers`: F of the prepared bundle is F of the bundle,
    computing the blocks again changes no gradient, and the spans are as :class:`~ldm_core.contracts.BlockSpan` says.
    For adapters, it reaches its layers through itself, by attributes, lists, mappings and
    bound methods, and its ``addresses``, where it has them, name the places of its weights.
    :class:`~ldm_core.contracts.DenoiserConfig` lists the config's optional answers, such as the parts that the network
    `accepts`. Blocks whose tokens lie on a grid tell hooks its axes by :class:`~ldm_core.contracts.token_grid`.
    Ownership of device, mode, freezing and parameters: see :mod:`ldm_core.contracts`.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # nn.Module brings a placeholder `forward` that would hide a forgotten one until the first call.
        super().__init_subclass__(**kwargs)
        if getattr(cls.forward, "__name__", "") == "_forward_unimplemented":
            cls.forward = Denoiser.forward  # type: ignore[method-assign]

    @abstractmethod
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *s), noise_level (B,) -> (B, C or more, *s): the first C channels are F, the rest its own.

        Each row has a noise level of its own. Every part of the bundle that the config's `accepts` names changes F; a
        token that `crossattn_mask` or the mask of a named set hides does not. F has a gradient with respect to x and to
        every parameter. It takes every size up to the config's `max_size`, where that names one, that `factor` divides.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """Steps from noise to data; any object, no module needed. Stable API.

    It knows neither conditioning nor guidance nor first stage; its history is local to :meth:`sample`.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def sample(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        *,
        streams: Streams | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """x (B, C, *s) at times[0] -> x at times[-1], in x's shape and dtype; `times` strictly decreasing.

        ``denoise(x, t)`` wants t (B,), at levels from times[0] down to times[-1]. With more steps the result converges
        to the exact one: the flow from x, or the distribution of the last level where noise is drawn.

        After step i, counted from 0, ``on_step(i, times[i + 1], x, x0)`` is called: a tensor that it returns replaces
        x, and what it raises comes out. The sampler passes gradients.

        `streams` is required when noise is drawn (ValueError): ``streams.normal(x.shape)``, row i from stream i. May
        divide by sigma(times[i]), i < last, never by alpha, which is 0 where rectified flow begins, without saying so
        (``divides_by_alpha = True`` in its conformance suite).
        """
        ...


# ---------------------------------------------------------------------------------------------------------------
# Provisional until 1.0
