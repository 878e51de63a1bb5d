"""The conformance suite of first stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldm_core.contracts import FirstStage, LatentSpec, Site, configs
from ldm_core.contracts.answers import FirstStageAnswers
from ldm_core.contracts.streams import Streams
from ldm_core.testing import batches
from ldm_core.testing.base import largest_difference, same
from ldm_core.testing.rules import Rule, must_raise
from ldm_core.testing.stages.trained import TrainedStageSuite

FAR_OUTSIDE = 10.0
"""More than any stage makes of a picture in [-1, 1], trained or not; less than the middle of [0, 255]."""


class FirstStageSuite(TrainedStageSuite):
    """Subclass it, set `component` and `settings`, and other `sizes` if 32 x 32 and 32 x 48 do not suit the stage.

    A stage with weights is tried in training too; `trainable` False is for one that no run trains.
    """

    kind = "first_stage"
    protocol: ClassVar[type] = FirstStage

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """Image size and channels; nothing else is built before a first stage."""
        return Site(size=size or self.sizes[0], channels=self.image_channels)

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Tensor]:
        """Smooth pictures (B, c, H, W) in [-1, 1]."""
        return {"image": batches.images(rows, size, self.image_channels)}

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """Moments, the mode's latents, the image decoded from them and the latents projected."""
        moments = component.encode_moments(inputs["image"])
        z = component.latents(moments)
        return {"moments": moments, "latents": z, "image": component.decode(z), "projected": component.project(z)}

    def learn(self, component: Any) -> None:
        """A normalisation is learned too, and has to travel with the weights."""
        channels = component.latent.channels
        component.set_normalization(torch.linspace(-0.5, 0.5, channels), torch.linspace(0.5, 2.0, channels))

    @Rule(
        FirstStage,
        "equal to the stage's own",
        "declare in the config's latent the channels and strides that encode_moments and latents write",
    )
    def test_latent_shape_is_as_declared(self) -> None:
        """The latent spec of the config and of the stage are one, and the latents have that shape at every size."""
        declared = self.config().latent
        assert isinstance(declared, LatentSpec), "config.latent is no LatentSpec"
        for size in self.sizes:
            stage = self.build(size=size)
            assert stage.latent == declared, f"the config declares {declared}, the stage {stage.latent}"
            outputs = self._quietly(stage, self.inputs(range(2), size))
            shape = declared.shape(size)
            assert tuple(outputs["latents"].shape) == (2, *shape), f"latents at {size} are not (2, *{shape})"
            assert tuple(outputs["projected"].shape) == (2, *shape)
            assert tuple(outputs["moments"].shape[2:]) == shape[1:], "moments and latents lie on different grids"

    @Rule(
        FirstStage.decode,
        "on the scale of [-1, 1]",
        "undo the encoder's strides, and let 0 be grey: no [0, 1], no [0, 255]",
    )
    def test_decode_gives_images(self) -> None:
        """Latents of pictures are decoded to pictures of their size, on the scale of [-1, 1]."""
        size = self.sizes[-1]
        image = self._quietly(self.build(size=size), self.inputs(range(2), size))["image"]
        shape = (2, self.image_channels, *size)
        assert tuple(image.shape) == shape, f"decode gives {tuple(image.shape)} for images {shape}"
        middle = float(image.abs().median())
        assert middle <= FAR_OUTSIDE, f"half of the decoded values are beyond {middle:.3g}"

    @Rule(
        FirstStage.encode_moments,
        "is a ValueError naming the",
        "call self.latent.shape(x.shape[2:]) before anything else: its ValueError names both numbers",
    )
    def test_an_indivisible_size_is_refused(self) -> None:
        """An indivisible image is a ValueError with the size and the factor in it."""
        stage = self.build()
        stride = stage.latent.stride
        for axis, factor in enumerate(stride):
            if factor == 1:
                continue
            size = list(self.sizes[0])
            size[axis] += 1
            image = torch.zeros(1, self.image_channels, *size)
            asked = f"encode_moments of images of {size} at factor {factor}"
            error = must_raise(ValueError, partial(stage.encode_moments, image), asked)
            for number in (size[axis], factor):
                assert str(number) in str(error), f"the message does not name {number}: {error}"

    @Rule(
        FirstStage.latents,
        "Equal streams give equal latents",
        "draw by streams.normal(mean.shape), and where streams is None draw nothing",
    )
    def test_latents_repeat_under_the_same_streams(self) -> None:
        """Equal streams give equal latents; a stage that draws gives others under other streams."""
        stage, given = self.build(), self.inputs(range(3), self.sizes[0])
        with torch.no_grad():
            moments = stage.encode_moments(given["image"])
            mode = stage.latents(moments)
            first = stage.latents(moments, streams=Streams([1, 2, 3]))
            again = stage.latents(moments, streams=Streams([1, 2, 3]))
            other = stage.latents(moments, streams=Streams([4, 5, 6]))
            alone = stage.latents(moments[1:2], streams=Streams([2]))
        assert same(first, again), "the same streams gave other latents"
        if not same(first, mode):
            assert not same(first, other), "other streams gave the same latents, and not the mode"
        far = largest_difference(first[1:2], alone)
        assert far <= self.atol, f"row 1 under its own stream differs in a batch by {far:.2g}"

    @Rule(
        FirstStage.set_normalization,
        "(raw - mean) / std",
        "keep mean and std (C,) as buffers, apply them last in latents and undo them first in decode",
    )
    def test_normalization_is_honoured(self) -> None:
        """After set_normalization latents are (raw - mean) / std, and decode undoes it."""
        stage, given = self.build(), self.inputs(range(3), self.sizes[0])
        channels = stage.latent.channels
        with torch.no_grad():
            moments = stage.encode_moments(given["image"])
            stage.set_normalization(torch.zeros(channels), torch.ones(channels))
            raw = stage.latents(moments)
            image = stage.decode(raw)
            axes = [0, *range(2, raw.dim())]
            mean, std = raw.mean(axes), raw.std(axes).clamp(min=1e-3)
            stage.set_normalization(mean, std)
            z = stage.latents(moments)
            back = stage.decode(z)
        shape = (-1, *[1] * (raw.dim() - 2))
        expected = (raw - mean.view(shape)) / std.view(shape)
        far = largest_difference(z, expected)
        assert far <= 1e-3, f"latents are not (raw - mean) / std; off by {far:.2g}"
        scale = 1 + float(image.abs().max())
        far = largest_difference(back, image)
        assert far <= 1e-3 * scale, f"decode does not undo the normalisation; off by {far:.2g}"
        assert largest_difference(z.mean(axes), torch.zeros(channels)) < 1e-2, "normalised latents have another mean"
        seen = raw.std(axes) > 1e-3
        assert largest_difference(z.std(axes)[seen], torch.ones(channels)[seen]) < 1e-2, "their std is not 1"

    @Rule(FirstStage.encode_moments, "Moments do not depend", "apply the normalisation in latents, and not to moments")
    def test_moments_do_not_depend_on_the_normalization(self) -> None:
        """Moments are raw: a cache of them outlives a new normalisation."""
        stage, given = self.build(), self.inputs(range(2), self.sizes[0])
        channels = stage.latent.channels
        with torch.no_grad():
            before = stage.encode_moments(given["image"])
            stage.set_normalization(torch.full((channels,), 0.3), torch.full((channels,), 1.7))
            after = stage.encode_moments(given["image"])
        assert same(before, after), "set_normalization changed what encode_moments returns"

    @Rule(
        FirstStage.project,
        "Projecting twice",
        "return the nearest latent that decode can mean, and z itself where all can be meant",
    )
    def test_projection_is_idempotent(self) -> None:
        """Projecting twice is projecting once."""
        stage = self.build()
        self.learn(stage)
        z = batches.normal(range(2), stage.latent.shape(self.sizes[0]), "z")
        with torch.no_grad():
            once = stage.project(z)
            far = largest_difference(stage.project(once), once)
        assert far <= 1e-4, f"projecting twice moves the latents by {far:.2g}"

    @Rule(
        FirstStage,
        "are those of the whole to",
        "find what looks at the whole picture in a pass before, as the mean and deviation of a group norm",
    )
    def test_pieces_are_the_whole(self) -> None:
        """Large pictures in pieces give the moments and pictures of the whole, within little memory."""
        size = tuple(2 * side for side in self.sizes[-1])
        stage, images = self.build(size=size).eval(), self.inputs(range(1), size)["image"]
        self.learn(stage)
        answers = configs.of(FirstStageAnswers, stage)
        with torch.no_grad():
            moments = stage.encode_moments(images)
            z = stage.latents(moments)
            for name, call, given, whole in (
                ("encode_in_pieces", answers.encode_in_pieces, images, moments),
                ("decode_in_pieces", answers.decode_in_pieces, z, stage.decode(z)),
            ):
                if call is None:
                    continue
                for memory in (1 << 20, 1 << 30):
                    made = call(given, memory)
                    assert made.shape == whole.shape, f"{name} gives {tuple(made.shape)}, not {tuple(whole.shape)}"
                    far = largest_difference(made, whole) / max(float(whole.abs().max()), 1.0)
                    assert far <= 1e-3, f"{name} within {memory} bytes is off by {far:.2g}"
