"""The contracts of first-stage training: the stage, the loss that trains it, further losses beside it. Provisional."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

import attrs

from ldm_core.contracts.provisional import cooperative_init
from ldm_core.contracts.values import EMPTY, Reconstruction

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ldm_core.contracts.streams import Streams


T = TypeVar("T")


@runtime_checkable
class TrainableStage(Protocol):
    """A first stage that can be trained: one name beside :class:`FirstStage`. Provisional.

    :class:`~ldm_core.contracts.FirstStageAnswers` lists the further names that a stage may offer and that some
    objectives want. An objective that lacks one says so before the training.

    A stage with a codebook also offers `quantizing` (bool; False = decode latents as they are), `quantize`, a module
    that holds the codes alone, ``init_codebook(latents, *, seed)`` and ``revive(latents, dead, *, seed)``, whose
    `latents` are moments (B, C, *s) or (N, C) and `dead` is bool (codes,). Both write the codes alone, equal ones of
    equal seeds. Its :meth:`reconstruct` logs `codebook_counts` (codes,), how often each code occurs.
    """

    @abstractmethod
    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        """One training pass of images (B, c, H, W) in [-1, 1]: its image and regularization reach every parameter.

        Row i of the image is drawn from stream i alone; without streams it is what ``decode`` makes of the mode,
        whatever the normalisation. Logs are detached, and finite; those with axes become scalars by
        ``diagnostics(logs)``, under names that no other log has.
        """
        ...


@attrs.frozen
class StageBatch:
    """A micro-batch of first-stage training: `images` (B, c, H, W) in [-1, 1] and the `step`, counted from 0.

    ``streams(purpose)`` makes B random streams, one an image: equal ones at each call for one purpose, others for
    another purpose or step. `whole` is what the objective's ``survey`` found for this micro-batch, else None.
    """

    images: Tensor
    step: int
    streams: Callable[[str], Streams]
    whole: object = None


class StageLoss(NamedTuple):
    """A loss of a micro-batch: `value` (), differentiable; `logs`, detached tensors, averaged over the batch.

    `image` (B, c, H, W) is the detached reconstruction: opponents are shown it, and a bad example is found by it.
    `reconstruction`, with its graph, is what further losses of the recipe are taken of.
    """

    value: Tensor
    logs: Mapping[str, Tensor] = EMPTY
    image: Tensor | None = None
    reconstruction: Reconstruction | None = None


class StageTraining(Protocol):
    """The training around an objective, as far as it may use it. Provisional."""

    steps: int
    """Optimizer steps of the training."""
    seed: int
    """The recipe's."""
    device: torch.device
    processes: int
    stage_config: object
    """The config of the first stage."""

    def average(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes; every process must call it, as all below."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, by rank."""
        ...

    def first_images(self, count: int) -> Iterable[Tensor]:
        """`count` training images, or all, in blocks (B, c, H, W), spread evenly over the data."""
        ...

    def rewritten(self, module: nn.Module, rows: Tensor | None = None) -> None:
        """Take over parameters of the stage's `module`, written in place: the first process's, for all of them.

        `rows`, bool (N,): the optimizer forgets the past gradients of these rows of parameters with N rows.
        """
        ...

    def taken(self, prefix: str) -> bool:
        """True if all weights of the stage with this prefix came from ``first_stage_trainer.init_from``."""
        ...

    def say(self, text: str, level: str = "info") -> None:
        """Tell the user; `level` is "info" or "warning"."""
        ...


@runtime_checkable
class StageObjective(Protocol):
    """The loss that trains a first stage. Provisional.

    It may be a module; parameters of its own are trained with the stage's, by one optimizer. They and its buffers are
    there once it is prepared, and travel in checkpoints but not in the stage's file. It may replace a buffer by one of
    the same shape. It registers neither the stage nor what it borrows or freezes.

    :class:`~ldm_core.contracts.StageObjectiveAnswers` lists its optional answers: a look at the stage before the
    training, opponents with an optimizer each, the care of a codebook, state of a resumed run, scores of held-out
    images. Every process makes one and calls the same of it.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def loss(self, stage: TrainableStage, batch: StageBatch) -> StageLoss:
        """One training pass of `stage`: its loss reaches every parameter of the stage.

        Random numbers come from ``batch.streams``; those of the pass from ``batch.streams("first_stage")``. The value
        is float32 and finite, and the same for equal weights, batch and state.
        """
        ...


@runtime_checkable
class Opponent(Protocol):
    """A module that is trained against the stage with an optimizer of its own, such as a discriminator. Provisional."""

    @abstractmethod
    def active(self, step: int) -> bool:
        """Say whether it trains at `step`, counted from 0; once it does, it goes on."""
        ...

    @abstractmethod
    def forward(self, batch: StageBatch, made: StageLoss) -> StageLoss:
        """Its own loss, given what the stage `made` of the batch; it reaches its own parameters alone."""
        ...


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """A loss beside the objective's, of the latents or the image of a pass. Provisional.

    Its config says its `weight` and whether it is `adaptive` (:class:`~ldm_core.contracts.AuxiliaryLossConfig`). It may
    be a module: its parameters are trained with the stage and travel in checkpoints, not in the stage's file.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def loss(self, images: Tensor, z: Tensor, reconstruction: Reconstruction) -> Tensor:
        """images (B, c, H, W), z (B, C, *s), the pass that both are of -> the unweighted loss (), float32, finite.

        `z` is ``reconstruction.z``; a stage that gives none cannot be trained with it. Its gradient reaches `z` or the
        image of the pass, and every parameter of its own. It draws nothing: in training too, equal arguments, weights
        and state give an equal loss.
        """
        ...
