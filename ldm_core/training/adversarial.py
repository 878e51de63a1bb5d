"""The adversarial loss of a first stage, in two parts: the autoencoder's and the discriminator's.

Source: Esser et al. (arXiv 2012.09841, equations 5 to 7) and Rombach et al. (arXiv 2112.10752, appendix G),
with three decisions of ours: the start is counted in batches; perceptual and adversarial losses are
differentiated once each, with respect to the reconstruction; the published log-variance, which no optimizer
ever received, is left out.

Each part is an ``nn.Module`` whose ``forward`` computes its whole loss, so that a DeepSpeed engine can hold
it (ZeRO stages 0 to 2). Nothing here imports deepspeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import EMPTY, Reconstruction
from ldm_core.errors import ConfigError
from ldm_core.streams import Streams

Reduce = Callable[[Tensor], Tensor]
"""Averages a tensor over the processes that share a batch; the identity for one process."""


class TrainableStage(Protocol):
    """What a first stage offers besides its contract so that it can be trained here."""

    nll_reduction: str
    """"sum": errors summed over pixels, averaged over the batch (KL); "mean": averaged over all (VQ)."""
    regularization_weight: float

    @property
    def last_layer(self) -> Tensor:
        """The parameter (weight of the last decoder convolution) whose gradients set the adaptive weight."""
        ...

    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        """One training pass of images (B, c, H, W) in [-1, 1]."""
        ...


class PartOutput(NamedTuple):
    """One part's loss: `value` () float32; `logs`, detached scalars; `image`, the detached reconstruction."""

    value: Tensor
    logs: Mapping[str, Tensor] = EMPTY
    image: Tensor | None = None


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss () of logits: half of mean relu(1 - real) + mean relu(1 + fake); 1 at zero logits."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def vanilla_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy () of logits: half of mean softplus(-real) + mean softplus(fake); ln 2 at zero logits."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


D_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": hinge_d_loss,
    "vanilla": vanilla_d_loss,
}


def identity(x: Tensor) -> Tensor:
    """Return `x`: the average over one process."""
    return x


def adaptive_weight(
    nll_grad: Tensor, gan_grad: Tensor, *, reduce: Reduce = identity, limit: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """Weight () in [0, `limit`] that brings the adversarial gradient to the reconstruction's size; detached.

    The ratio of the Euclidean norms of two gradients of equal shape, taken at the decoder's last layer, `eps`
    added to the denominator. `reduce` averages both over processes, in one call, before the norms: the norm
    of an average is not the average of norms. Source: arXiv 2012.09841, equation 7.
    """
    both = reduce(torch.stack((nll_grad.detach().float(), gan_grad.detach().float())))
    norms = torch.linalg.vector_norm(both.flatten(1), dim=1)
    return (norms[0] / (norms[1] + eps)).clamp(0.0, limit)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Turn ``requires_grad`` off for a borrowed module's parameters; on leaving, back to what it was."""
    thawed = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in thawed:
            p.requires_grad_(False)
        yield
    finally:
        for p in thawed:
            p.requires_grad_(True)


class GeneratorLoss(nn.Module):
    """The autoencoder's loss: nll + regularization_weight · regularization + disc_weight · adaptive · g.

    The error map is abs(x - x̂) (`pixel_loss` "l1") or its square ("l2"), plus `perceptual_weight` times the
    perceptual distance, which is broadcast: it counts once per pixel and channel. `first_stage.nll_reduction`
    says how the map becomes nll. g = -mean D(x̂), from batch `disc_start` on (step < disc_start: neither g
    nor its gradient is computed, and the cost is that of a plain autoencoder).

    `first_stage` (:class:`TrainableStage`) is registered. `discriminator` (None = no adversarial term) and
    `perceptual` (an :class:`~ldm_core.training.lpips.LPIPS`, or None) are borrowed: not registered, so
    neither in ``parameters()`` nor in the state nor moved by ``.to(device)``; place them yourself. The
    discriminator receives no gradient; in train mode its batch norm statistics do move, as published.

    `reduce`: see :func:`adaptive_weight`. Raises ConfigError when the stage cannot be trained so.
    """

    def __init__(
        self,
        first_stage: nn.Module,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
        *,
        perceptual_weight: float = 1.0,
        pixel_loss: Literal["l1", "l2"] = "l1",
        disc_weight: float = 0.5,
        disc_start: int = 50_001,
        reduce: Reduce = identity,
    ) -> None:
        super().__init__()
        name = type(first_stage).__name__
        needed = ("reconstruct", "last_layer", "nll_reduction", "regularization_weight")
        if lacking := [n for n in needed if not hasattr(first_stage, n)]:
            raise ConfigError(
                f"first stage {name} cannot be trained: it has no {', '.join(lacking)}; "
                "use a trained one (--first-stage PATH), or a stage that offers them"
            )
        stage = cast(TrainableStage, first_stage)
        if stage.nll_reduction not in ("sum", "mean"):
            raise ConfigError(
                f"first stage {name}: nll_reduction is 'sum' or 'mean', got {stage.nll_reduction!r}"
            )
        if pixel_loss not in ("l1", "l2"):
            raise ConfigError(f"pixel_loss: expected 'l1' or 'l2', got {pixel_loss!r}")
        self.first_stage = first_stage
        self.perceptual_weight = perceptual_weight
        self.pixel_loss = pixel_loss
        self.disc_weight = disc_weight
        self.disc_start = disc_start
        self.reduce = reduce
        # in tuples, so that nn.Module does not see them
        self._discriminator = (discriminator,)
        self._perceptual = (perceptual,)

    def adversarial(self, step: int) -> bool:
        """Whether the adversarial term counts at batch `step` (from 0)."""
        return self._discriminator[0] is not None and self.disc_weight > 0.0 and step >= self.disc_start

    def nll(self, x: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction loss () of `image` against `x`, both (B, c, H, W) float32, and its terms to log."""
        difference = image - x
        errors = difference.abs() if self.pixel_loss == "l1" else difference.square()  # (B, c, H, W)
        logs = {"pixel": errors.detach().mean()}
        perceptual = self._perceptual[0]
        if perceptual is not None and self.perceptual_weight > 0.0:
            distance = perceptual(x, image).float()  # (B, 1, 1, 1)
            logs["perceptual"] = distance.detach().mean()
            errors = errors + self.perceptual_weight * distance
        summed = cast(TrainableStage, self.first_stage).nll_reduction == "sum"
        nll = errors.sum() / errors.shape[0] if summed else errors.mean()
        logs["nll"] = nll.detach()
        return nll, logs

    def forward(self, images: Tensor, step: int, streams: Streams | None = None) -> PartOutput:
        """Loss of `images` (B, c, H, W) in [-1, 1] at batch `step`; `streams`, B random streams for the
        stage.

        `image` of the output is what the discriminator's part takes as fake. Logs: loss, pixel, perceptual,
        nll, regularization, those of the stage, and with the adversarial term: generator (g) and
        adaptive_weight. Under ``no_grad`` the adversarial term is left out, so that held-out losses compare
        across its start.
        """
        stage = cast(TrainableStage, self.first_stage)
        last_layer = stage.last_layer
        reconstruction = stage.reconstruct(images.to(last_layer.dtype), streams=streams)
        image = reconstruction.image.float()
        target = images.float()
        regularization = reconstruction.regularization.float().mean()
        logs: dict[str, Tensor] = {
            **{name: value.detach().float().mean() for name, value in reconstruction.logs.items()},
            "regularization": regularization.detach(),
        }
        discriminator = self._discriminator[0]
        if discriminator is None or not self.adversarial(step) or not torch.is_grad_enabled():
            nll, terms = self.nll(target, image)
        else:
            nll, terms = self._with_adversary(target, image, last_layer, discriminator)
        value = nll + stage.regularization_weight * regularization
        logs.update(terms, loss=value.detach())
        return PartOutput(value, logs, image.detach())

    def _with_adversary(
        self, x: Tensor, image: Tensor, last_layer: Tensor, discriminator: nn.Module
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """nll + weight · g as a tensor with the right value and gradient, and the terms to log.

        The adaptive weight needs the gradients of both losses before their sum is known. Both are therefore
        taken with respect to the reconstruction, cut off from its graph: each loss is differentiated once and
        its activations are freed before the next runs. From there the last layer's gradients cost one
        convolution each.
        """
        leaf = image.detach().requires_grad_()
        nll, terms = self.nll(x, leaf)
        (nll_grad,) = torch.autograd.grad(nll, leaf)
        with frozen(discriminator):
            g = -_logits(discriminator, leaf).mean()
            (gan_grad,) = torch.autograd.grad(g, leaf)
        (nll_last,) = torch.autograd.grad(image, last_layer, nll_grad, retain_graph=True)
        (gan_last,) = torch.autograd.grad(image, last_layer, gan_grad, retain_graph=True)
        weight = adaptive_weight(nll_last, gan_last, reduce=self.reduce)
        factor = self.disc_weight * weight
        terms.update(generator=g.detach(), adaptive_weight=weight)
        # A term of value 0 that carries the gradient on into the stage.
        carrier = (image * (nll_grad + factor * gan_grad)).sum()
        return nll.detach() + factor * g.detach() + (carrier - carrier.detach()), terms


class DiscriminatorLoss(nn.Module):
    """The discriminator's loss: `kind` "hinge" or "vanilla" of its logits on images and on reconstructions.

    `discriminator` is registered under that name. Before batch `disc_start` the loss is 0 and reaches every
    parameter with a gradient of 0; a trainer may as well skip the part (:meth:`active`). Raises ConfigError
    for another `kind`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        kind: Literal["hinge", "vanilla"] = "hinge",
        disc_start: int = 50_001,
    ) -> None:
        super().__init__()
        if kind not in D_LOSSES:
            raise ConfigError(f"discriminator loss: expected one of {', '.join(D_LOSSES)}, got {kind!r}")
        self.discriminator = discriminator
        self.kind = kind
        self.disc_start = disc_start

    def active(self, step: int) -> bool:
        """Whether the discriminator trains at batch `step` (from 0)."""
        return step >= self.disc_start

    def forward(self, real: Tensor, fake: Tensor, step: int) -> PartOutput:
        """Loss of `real` and `fake` (B, c, H, W) in [-1, 1] at batch `step`; `fake` is detached here once
        more.

        Logs: discriminator (the loss), real_logit and fake_logit (means), real_accuracy and fake_accuracy
        (shares of patches on the right side of 0). They are empty before the start.
        """
        if not self.active(step):
            zeros = [0.0 * p.float().sum() for p in self.discriminator.parameters()]
            return PartOutput(torch.stack(zeros).sum())
        real_logits = _logits(self.discriminator, real.detach())
        fake_logits = _logits(self.discriminator, fake.detach())
        value = D_LOSSES[self.kind](real_logits, fake_logits)
        logs = {
            "discriminator": value.detach(),
            "real_logit": real_logits.detach().mean(),
            "fake_logit": fake_logits.detach().mean(),
            "real_accuracy": (real_logits.detach() > 0).float().mean(),
            "fake_accuracy": (fake_logits.detach() < 0).float().mean(),
        }
        return PartOutput(value, logs)


def _logits(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Logits in float32, whatever the discriminator computes in."""
    dtype = next(discriminator.parameters()).dtype
    return discriminator(images.to(dtype)).float()
