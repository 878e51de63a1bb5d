"""The conformance suite of auxiliary losses of first stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from ldm_core.contracts import AuxiliaryLoss, Reconstruction
from ldm_core.testing import batches
from ldm_core.testing.base import generators, same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import WeightSuite


class AuxiliaryLossSuite(WeightSuite):
    """Subclass it, set `component` and `settings`; `latent` is that of the first stage around the loss."""

    kind = "auxiliary_loss"
    protocol: ClassVar[type] = AuxiliaryLoss

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Tensor]:
        """Images, and the latents, image and regularization of a pass of theirs."""
        images = batches.images(rows, size, self.image_channels)
        z = batches.normal(rows, self.latent.shape(size), "z")
        image = 0.9 * images + 0.1 * batches.normal(rows, images.shape[1:], "image")
        return {"images": images, "z": z, "image": image, "regularization": 0.5 * z.square().mean()}

    def run(self, component: AuxiliaryLoss, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch."""
        z = inputs["z"]
        made = Reconstruction(inputs["image"], inputs["regularization"], z=z)
        return {"loss": component.loss(inputs["images"], z, made)}

    def weighted(self) -> nn.Module:
        """A fresh loss with a state dict; the test is skipped for one that is no module."""
        loss = self.build()
        if not isinstance(loss, nn.Module):
            pytest.skip("this loss has no weights")
        return loss

    @Rule(
        AuxiliaryLoss.loss,
        "the unweighted loss (), float32, finite",
        "reduce over all axes, the batch too, as by .mean(), and give float32; leave the weight to the core",
    )
    def test_the_loss_is_one_number(self) -> None:
        """The loss is a tensor (), float32 and finite, of batches and images of every size."""
        for size in self.sizes:
            for count in (1, 3):
                value = self._quietly(self.build(size=size), self.inputs(range(count), size))["loss"]
                assert isinstance(value, Tensor), f"loss gives {type(value).__name__}, not a tensor"
                assert value.dim() == 0, f"the loss has shape {tuple(value.shape)}, not ()"
                assert value.dtype == torch.float32, f"the loss is {value.dtype}, not torch.float32"
                assert bool(value.isfinite()), f"the loss of {count} images of {size} is not finite"

    @Rule(
        AuxiliaryLoss.loss,
        "reaches `z` or the image of the pass",
        "take the loss of z or reconstruction.image itself, not of a detached copy, and drop idle parameters",
    )
    def test_gradients_reach_the_pass_and_its_own_parameters(self) -> None:
        """In training, z or the image of the pass gets a finite gradient beyond 0, and so does each own parameter."""
        loss, given = self._in_training(), self.inputs(range(2), self.sizes[0])
        passed = [given[name].requires_grad_() for name in ("z", "image")]
        with torch.enable_grad():
            value = self.run(loss, given)["loss"]
        if value.requires_grad:
            value.backward()
        gradients = [each.grad for each in passed if each.grad is not None]
        assert all(bool(g.isfinite().all()) for g in gradients), "the gradient of the pass is not finite"
        reached = any(bool(g.any()) for g in gradients)
        assert reached, "the gradient reaches neither z nor the image of the pass"
        own = loss.named_parameters() if isinstance(loss, nn.Module) else ()
        lost = [n for n, p in own if p.grad is None or not bool(p.grad.isfinite().all())]
        assert not lost, f"the gradient does not reach {', '.join(lost)} of the loss"

    @Rule(
        AuxiliaryLoss.loss,
        "in training too, equal arguments, weights and state give an equal loss",
        "do without dropout and random crops, or choose them by a fixed rule",
    )
    def test_draws_nothing_in_training(self) -> None:
        """In train mode, two fresh losses of equal weights give equal numbers, and no global generator moves."""
        losses, given = [self._in_training() for _ in range(2)], self.inputs(range(2), self.sizes[0])
        before = generators()
        first, second = (self._quietly(loss, given)["loss"] for loss in losses)
        assert same(before, generators()), "in training, the loss draws from a global generator"
        assert same(first, second), "in training, equal arguments and weights gave another loss"

    def _in_training(self) -> AuxiliaryLoss:
        loss: AuxiliaryLoss = self.build()
        if isinstance(loss, nn.Module):
            loss.train()
        return loss
