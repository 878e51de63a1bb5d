"""The adversarial loss of a first stage, in two parts: the autoencoder's and the discriminator's.

Source: Esser et al. (arXiv 2012.09841, equations 5 to 7) and Rombach et al. (arXiv 2112.10752, appendix G), with
decisions of ours: the start is counted in batches; perceptual and adversarial losses are differentiated once each, with
respect to the reconstruction; the published log-variance, never given to an optimizer there, is an option and then
learned; the discriminator may have an R1 penalty (Mescheder et al., arXiv 1801.04406).

Each part is an ``nn.Module`` with its whole loss in ``forward``, so a DeepSpeed engine can hold it (ZeRO stages 0 to
2). Nothing here imports deepspeed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Reconstruction, StageLoss
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_plugin_adversarial.equivariance import halved_loss

Reduce = Callable[[Tensor], Tensor]
"""Averages a tensor over the processes of a shared batch; the identity for one process."""


@runtime_checkable
class AdversarialStage(Protocol):
    """A first stage that the adversarial loss can train: four names beside ``FirstStage``.

    `nll_reduction` is "sum" or "mean", and `regularization_weight` a number of 0 or more. Its config may answer the
    names of ``AdversarialStageConfig``.
    """

    nll_reduction: str
    """"sum": errors summed over pixels, averaged over the batch (KL); "mean": averaged over all (VQ)."""
    regularization_weight: float
    """The weight of ``Reconstruction.regularization`` in the loss."""

    @property
    def last_layer(self) -> Tensor:
        """The parameter (weight of the last decoder convolution) whose gradients set the adaptive weight."""
        ...

    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        """One training pass, as ``ldm_core.contracts.TrainableStage`` says."""
        ...


class Comparison(NamedTuple):
    """The losses of images and their reconstruction (B, c, H, W), cut off from the stage's graph; all detached.

    `nll` and `generator` (g) are (), the gradients of both by the reconstruction have its shape; `variance_grad` (1,)
    is nll's by the log-variance, if there is one.
    """

    nll: Tensor
    generator: Tensor
    nll_grad: Tensor
    gan_grad: Tensor
    variance_grad: Tensor | None
    logs: Mapping[str, Tensor]


class Balance(NamedTuple):
    """A micro-batch's comparison and the adaptive weight () of its whole batch."""

    comparison: Comparison
    weight: Tensor


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
    """Weight () in [0, `limit`] to scale the adversarial gradient to the reconstruction's; detached.

    The ratio of the Euclidean norms of two gradients of equal shape, taken at the decoder's last layer, `eps` added to
    the denominator. `reduce` averages both over processes, in one call, before the norms: the norm of an average is not
    the average of norms. Source: arXiv 2012.09841, equation 7.
    """
    both = reduce(torch.stack((nll_grad.detach().float(), gan_grad.detach().float())))
    norms = torch.linalg.vector_norm(both.flatten(1), dim=1)
    return (norms[0] / (norms[1] + eps)).clamp(0.0, limit)


def r1_penalty(discriminator: nn.Module, images: Tensor, streams: Streams) -> Tensor:
    """R1 penalty () of a patch discriminator at real `images` (B, c, H, W), differentiable by its parameters.

    It is the squared Euclidean norm of a logit's gradient by its image, averaged over patches and images. The average
    over an image's patches is estimated without bias from one backward pass: each patch has a random sign drawn from
    the image's stream; for one logit an image it is exact. Float32, whatever the autocast: gradients of single logits
    are small. Source: arXiv 1801.04406, equation 9.
    """
    with torch.autocast(images.device.type, enabled=False):
        real = images.detach().float().requires_grad_()
        logits = _logits(discriminator, real)
        signs = torch.where(streams.uniform(tuple(logits.shape)) < 0.5, -1.0, 1.0).to(logits.device)
        (gradient,) = torch.autograd.grad((logits * signs).sum(), real, create_graph=True)
    return gradient.square().sum() / logits.numel()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Turn ``requires_grad`` off for a borrowed module's parameters, and restore it on leaving."""
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

    The error map is abs(x - x̂) (`pixel_loss` "l1") or its square ("l2"), plus `perceptual_weight` times the perceptual
    distance, broadcast: it counts once per pixel and channel. `first_stage.nll_reduction` defines the reduction of the
    map to nll. g = -mean D(x̂), from batch `disc_start` on (step < disc_start: neither g nor its gradient is computed,
    and the cost is a plain autoencoder's).

    `first_stage` (:class:`AdversarialStage`) is registered. `discriminator` (None = no adversarial term) and
    `perceptual` (a distance (B, 1, 1, 1) of two images, or None) are borrowed: not registered, so
    neither in ``parameters()`` nor in the state nor moved by ``.to(device)``; place them yourself. The discriminator
    receives no gradient; in train mode its batch norm statistics do move, as published.

    `log_variance`: the error map becomes map / exp(s) + s with a learned s (1,), 0 at the start, trained with the
    autoencoder: nll is then the one of a Laplace (L1) or Gaussian (L2) distribution of this variance, up to constants.

    `reduce`: see :func:`adaptive_weight`. Raises ConfigError if the stage cannot be trained so.
    """

    equivariance_weight: float = 0.0
    """The weight of :func:`halved_loss`, which counts beside the others; 0 = none."""

    def __init__(  # noqa: PLR0913
        self,
        first_stage: nn.Module,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
        *,
        perceptual_weight: float = 1.0,
        pixel_loss: Literal["l1", "l2"] = "l1",
        disc_weight: float = 0.5,
        disc_start: int = 50_001,
        log_variance: bool = False,
        reduce: Reduce = identity,
    ) -> None:
        super().__init__()
        stage = _trainable(first_stage)
        if stage.nll_reduction not in ("sum", "mean"):
            name = type(first_stage).__name__
            raise ConfigError(f"first stage {name}: nll_reduction is 'sum' or 'mean', got {stage.nll_reduction!r}")
        if pixel_loss not in ("l1", "l2"):
            raise ConfigError(f"pixel_loss: expected 'l1' or 'l2', got {pixel_loss!r}")
        self.first_stage = first_stage
        # of shape (1,): DeepSpeed refuses parameters without an axis
        self.log_variance = nn.Parameter(torch.zeros(1)) if log_variance else None
        self.perceptual_weight = perceptual_weight
        self.pixel_loss = pixel_loss
        self.disc_weight = disc_weight
        self.disc_start = disc_start
        self.reduce = reduce
        # in tuples, so that nn.Module does not see them
        self._discriminator = (discriminator,)
        self._perceptual = (perceptual,)

    def adversarial(self, step: int) -> bool:
        """Say whether the adversarial term counts at batch `step` (from 0)."""
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
        if self.log_variance is not None:
            logs["log_variance"] = self.log_variance.detach().mean()
            errors = errors / self.log_variance.exp() + self.log_variance
        summed = cast(AdversarialStage, self.first_stage).nll_reduction == "sum"
        nll = errors.sum() / errors.shape[0] if summed else errors.mean()
        logs["nll"] = nll.detach()
        return nll, logs

    def forward(
        self, images: Tensor, step: int, streams: Streams | None = None, balance: Balance | None = None
    ) -> StageLoss:
        """Loss of `images` (B, c, H, W) in [-1, 1] at batch `step`; `streams`, B random streams for the stage.

        `image` of the output is the fake of the discriminator's part. Logs: loss, pixel, perceptual, nll, log_variance,
        regularization, those of the stage, and with the adversarial term: generator (g) and adaptive_weight. Under
        ``no_grad`` the adversarial term is left out, so held-out losses compare across its start.

        `balance`: for one of several micro-batches of a batch, :meth:`compare` was called with each of them first, and
        the weight is the common one.
        """
        stage = cast(AdversarialStage, self.first_stage)
        reconstruction = stage.reconstruct(images.to(stage.last_layer.dtype), streams=streams)
        image = reconstruction.image.float()
        target = images.float()
        regularization = reconstruction.regularization.float().mean()
        logs: dict[str, Tensor] = {
            **{name: value.detach().float() for name, value in reconstruction.logs.items()},
            "regularization": regularization.detach(),
        }
        if not self.adversarial(step) or not torch.is_grad_enabled():
            nll, terms = self.nll(target, image)
        else:
            if balance is None:
                comparison = self._compare(target, image)
                weight = adaptive_weight(*self._at_last_layer(image, comparison), reduce=self.reduce)
            else:
                comparison, weight = balance
            nll, terms = self._carry(image, comparison, weight)
        value = nll + stage.regularization_weight * regularization
        if self.equivariance_weight:
            halved = halved_loss(stage, target, reconstruction.z, lambda x, image: self.nll(x, image)[0])
            value = value + self.equivariance_weight * halved
            terms = {**terms, "equivariance": halved.detach()}
        logs.update(terms, loss=value.detach())
        return StageLoss(value, logs, image.detach(), reconstruction)

    def compare(self, images: Tensor, streams: Streams | None = None) -> tuple[Comparison, Tensor]:
        """Give the losses of a micro-batch (B, c, H, W), and the gradients of nll and g at the last layer.

        The latter, (2, its shape), averaged over a batch's micro-batches and processes, give the batch's adaptive
        weight. The stage runs without a graph up to its last layer, so this costs one forward pass of it;
        :meth:`forward` does not repeat the work after the reconstruction.
        """
        stage = cast(AdversarialStage, self.first_stage)
        with frozen(self.first_stage):
            stage.last_layer.requires_grad_(True)
            image = stage.reconstruct(images.to(stage.last_layer.dtype), streams=streams).image.float()
            comparison = self._compare(images.float(), image)
            return comparison, torch.stack(self._at_last_layer(image, comparison))

    def _compare(self, x: Tensor, image: Tensor) -> Comparison:
        """Both losses and their gradients with respect to the reconstruction, cut off from its graph: each loss is
        differentiated once, and its activations are freed before the next runs."""
        discriminator = cast(nn.Module, self._discriminator[0])
        leaf = image.detach().requires_grad_()
        nll, logs = self.nll(x, leaf)
        by = [leaf] if self.log_variance is None else [leaf, self.log_variance]
        summed = cast(AdversarialStage, self.first_stage).nll_reduction == "sum"
        nll_grad, *variance_grad = _scaled_grad(nll, by, len(leaf) if summed else leaf.numel())
        with frozen(discriminator):
            logits = _logits(discriminator, leaf)
            g = -logits.mean()
            (gan_grad,) = _scaled_grad(g, [leaf], logits.numel())
        return Comparison(
            nll.detach(), g.detach(), nll_grad, gan_grad, variance_grad[0] if variance_grad else None, logs
        )

    def _at_last_layer(self, image: Tensor, comparison: Comparison) -> tuple[Tensor, Tensor]:
        """From the reconstruction on, the last layer's gradients cost one convolution each."""
        layer = cast(AdversarialStage, self.first_stage).last_layer
        found = []
        for gradient in (comparison.nll_grad, comparison.gan_grad):
            scale = torch.exp2(torch.log2(1024.0 / gradient.abs().sum().clamp_min(1e-30)).round())
            (last,) = torch.autograd.grad(image, layer, gradient * scale, retain_graph=True)
            found.append(last.float() / scale)
        return found[0], found[1]

    def _carry(self, image: Tensor, comparison: Comparison, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """nll + disc_weight · weight · g as a tensor with the right value and gradient, and the terms to log."""
        factor = self.disc_weight * weight
        terms = {**comparison.logs, "generator": comparison.generator, "adaptive_weight": weight}
        # A term of value 0, to carry the gradients on into the stage and the log-variance.
        carrier = (image * (comparison.nll_grad + factor * comparison.gan_grad)).sum()
        if self.log_variance is not None and comparison.variance_grad is not None:
            carrier = carrier + (self.log_variance * comparison.variance_grad).sum()
        return comparison.nll + factor * comparison.generator + (carrier - carrier.detach()), terms


class DiscriminatorLoss(nn.Module):
    """The discriminator's loss: `kind` "hinge" or "vanilla" of its logits on images and on reconstructions.

    `discriminator` is registered under this name. Before batch `disc_start` the loss is 0 and reaches every parameter
    with a gradient of 0; a trainer may as well skip the part (:meth:`active`).

    With `r1_weight`, every `r1_every`-th batch from the start on has `r1_weight` / 2 times :func:`r1_penalty` added,
    times `r1_every`, so the interval changes the cost and not the strength (lazy regularisation, Karras et al., arXiv
    1912.04958). Raises ConfigError for another `kind`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        kind: Literal["hinge", "vanilla"] = "hinge",
        disc_start: int = 50_001,
        r1_weight: float = 0.0,
        r1_every: int = 16,
    ) -> None:
        super().__init__()
        if kind not in D_LOSSES:
            raise ConfigError(f"discriminator loss: expected one of {', '.join(D_LOSSES)}, got {kind!r}")
        self.discriminator = discriminator
        self.kind = kind
        self.disc_start = disc_start
        self.r1_weight, self.r1_every = r1_weight, r1_every

    def active(self, step: int) -> bool:
        """Say whether the discriminator trains at batch `step` (from 0)."""
        return step >= self.disc_start

    def penalized(self, step: int) -> bool:
        """Say whether batch `step` (from 0) has the R1 penalty."""
        return self.r1_weight > 0.0 and self.active(step) and (step - self.disc_start) % self.r1_every == 0

    def forward(self, real: Tensor, fake: Tensor, step: int, streams: Streams | None = None) -> StageLoss:
        """Loss of `real` and `fake` (B, c, H, W) in [-1, 1] at batch `step`; `fake` is detached here once more.

        A :meth:`penalized` batch needs `streams`, B random streams, else ValueError. Logs: discriminator (the loss),
        real_logit and fake_logit (means), real_accuracy and fake_accuracy (shares of patches on the right side of 0),
        r1 (the penalty, if any). They are empty before the start.
        """
        if not self.active(step):
            zeros = [0.0 * p.float().sum() for p in self.discriminator.parameters()]
            return StageLoss(torch.stack(zeros).sum())
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
        if self.penalized(step):
            if streams is None:
                raise ValueError(f"batch {step} has the R1 penalty, which needs random streams")
            penalty = r1_penalty(self.discriminator, real, streams)
            value = value + 0.5 * self.r1_weight * self.r1_every * penalty
            logs["r1"] = penalty.detach()
        return StageLoss(value, logs)


def _trainable(stage: nn.Module) -> AdversarialStage:
    """`stage` as a trainable one; ConfigError naming the missing members, and contract."""
    if not isinstance(stage, AdversarialStage):
        wanted = ("reconstruct", "last_layer", "nll_reduction", "regularization_weight")
        offered = set(dir(stage))
        contract = (AdversarialStage.__doc__ or "").splitlines()[0]
        raise ConfigError(
            f"first stage {type(stage).__name__} cannot be trained by 'adversarial': it has no "
            f"{', '.join(name for name in wanted if name not in offered)}. AdversarialStage of "
            f"ldm_plugin_adversarial.loss says what they are: {contract!r}. Offer them, or set "
            "stage_objective=reconstruction, which wants none of them"
        )
    return stage


def _scaled_grad(value: Tensor, by: list[Tensor], count: int) -> tuple[Tensor, ...]:
    """Gradients of `value`, a mean over `count` numbers, by way of about their sum: fp16 has no digits for one number's
    millionth part in the mean. The factor is a power of two, so in fp32 every bit stays."""
    scale = 2.0 ** round(math.log2(count))
    return tuple(gradient / scale for gradient in torch.autograd.grad(value * scale, by))


def _logits(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Logits in float32, whatever the discriminator computes in."""
    dtype = next(discriminator.parameters()).dtype
    return discriminator(images.to(dtype)).float()
