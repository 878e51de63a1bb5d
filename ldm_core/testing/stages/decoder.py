"""The conformance suite of decoders of a trained stage's latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ldm_core.contracts import Decoder, configs
from ldm_core.contracts.answers import FirstStageAnswers
from ldm_core.testing import batches
from ldm_core.testing.base import largest_difference
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite

FAR_OUTSIDE = 10.0
"""More than any decoder makes of latents, trained or not; less than the middle of [0, 255]."""


class DecoderSuite(ModuleSuite):
    """Subclass it, set `component` and `settings`; `latent` is that of the first stage around it."""

    kind = "decoder"
    protocol: ClassVar[type] = Decoder

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Tensor]:
        """Latents of pictures of `size`, close to N(0, 1)."""
        return {"z": batches.normal(rows, self.latent.shape(size), "z")}

    def run(self, component: Decoder, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pictures."""
        return {"image": component.decode(inputs["z"])}

    @Rule(Decoder, "its `latent` is the site's", "keep site.latent under the name latent")
    def test_latent_is_that_of_the_site(self) -> None:
        """The decoder's latent spec is the one that it was built for."""
        built = self.build()
        assert built.latent == self.latent, f"the site's latents are {self.latent}, the decoder says {built.latent}"

    @Rule(Decoder.decode, "of any size", "convolve and upsample; keep no table of positions and no size")
    def test_pictures_have_the_size_of_their_latents(self) -> None:
        """Latents of any size, also other than those of the site, become pictures of each side's stride times cells."""
        decoder = self.build()
        for cells in ((3, 5), (1, 2), (4, 4)):
            z = batches.normal(range(2), (self.latent.channels, *cells), "z")
            image = self._quietly(decoder, {"z": z})["image"]
            size = [n * stride for n, stride in zip(cells, self.latent.stride, strict=True)]
            expected = (2, self.image_channels, *size)
            assert tuple(image.shape) == expected, (
                f"decode gives {tuple(image.shape)} for {cells} cells, not {expected}"
            )

    @Rule(Decoder.decode, "on the scale of [-1, 1]", "let 0 be grey: no [0, 1], no [0, 255]")
    def test_pictures_are_on_their_scale(self) -> None:
        """Half of the values of fresh weights are not far outside of [-1, 1]."""
        image = self._quietly(self.build(), self.inputs(range(2), self.sizes[0]))["image"]
        middle = float(image.abs().median())
        assert middle <= FAR_OUTSIDE, f"half of the decoded values are beyond {middle:.3g}"

    @Rule(Decoder.decode, "Gradients pass", "compute without no_grad and without detach")
    def test_gradients_pass_to_the_latents(self) -> None:
        """The pictures' gradient reaches the latents."""
        z = self.inputs(range(2), self.sizes[0])["z"].requires_grad_()
        with torch.enable_grad():
            image = self.build().decode(z)
        found: Tensor | None = None
        if image.requires_grad:
            (found,) = torch.autograd.grad(image.square().sum(), [z], allow_unused=True)
        assert found is not None, "no gradient passes from the pictures to the latents"
        assert bool(found.isfinite().all()) and bool(found.any()), "the latents' gradient is zero or not finite"

    @Rule(Decoder, "those of the whole to", "let each window see all cells that its pixels depend on")
    def test_pieces_are_the_whole(self) -> None:
        """Large pictures in pieces, where the decoder has them, are the pictures of the whole."""
        decoder = self.build()
        call = configs.of(FirstStageAnswers, decoder).decode_in_pieces
        if call is None:
            return
        z = batches.normal(range(1), (self.latent.channels, 33, 21), "z")
        with torch.no_grad():
            whole = decoder.decode(z)
            for memory in (1 << 16, 1 << 20, 1 << 32):
                made = call(z, memory)
                assert made.shape == whole.shape, f"{tuple(made.shape)} within {memory} bytes, not {tuple(whole.shape)}"
                far = largest_difference(made, whole) / max(float(whole.abs().max()), 1.0)
                assert far <= 1e-4, f"decode_in_pieces within {memory} bytes is off by {far:.2g}"
