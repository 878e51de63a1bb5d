"""The tests of a first stage that can be trained: its pass in training, the numbers of its loss, and its codebook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStageAnswers, Reconstruction, TrainableStage, configs
from ldm_core.contracts.streams import Streams
from ldm_core.testing.base import generators, largest_difference, randomize, same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite

_OFFERS = Rule(
    TrainableStage,
    "one name beside",
    "offer reconstruct, or say trainable = False in the suite",
)
_CODEBOOK = Rule(
    TrainableStage,
    "Both write the codes alone",
    "write into the parameters of quantize alone, and draw from a torch.Generator that the seed sets",
)
COUNTS = "codebook_counts"


class _Offers(ModuleSuite):
    """The offers of a stage to a loss, beside its pass: layers, numbers, latents."""

    trainable: ClassVar[bool] = True

    def trained(self) -> Any:
        """A fresh stage with all weights moved; the test is skipped for a stage that no run trains."""
        stage = self.build()
        if not self.trainable or not list(stage.parameters()):
            pytest.skip("this stage is not trained")
        with _OFFERS.held():
            assert "reconstruct" in dir(stage), f"{type(stage).__name__} cannot be trained: it has no reconstruct"
        randomize(stage)
        return stage

    @Rule(
        FirstStageAnswers,
        "parameters of the stage itself",
        "let the attribute or property be the weight of the decoder's (encoder's) last convolution itself",
    )
    def test_the_last_layer_makes_the_image(self) -> None:
        """`last_layer` and `encoder_layer`, where offered, are parameters of the stage that the image depends on."""
        stage = self.trained()
        answers = configs.of(FirstStageAnswers, stage)
        layers = {"last_layer": answers.last_layer, "encoder_layer": answers.encoder_layer}
        for name, layer in layers.items():
            if layer is None:
                continue
            assert any(layer is p for p in stage.parameters()), f"{name} is no parameter of the stage"
            (gradient,) = torch.autograd.grad(
                self._pass(stage, self._images(), Streams([1, 2])).image.sum(), layer, allow_unused=True
            )
            assert gradient is not None and bool(gradient.abs().sum() > 0), f"the image does not depend on {name}"

    @Rule(
        FirstStageAnswers,
        '`nll_reduction` is "sum" or "mean"',
        'set nll_reduction to "sum" or "mean", and regularization_weight to a number of the config',
    )
    def test_the_loss_has_its_numbers(self) -> None:
        """The loss knows how to reduce errors and how to weigh the regularization."""
        answers = configs.of(FirstStageAnswers, self.trained())
        assert answers.nll_reduction in ("sum", "mean"), f"nll_reduction is {answers.nll_reduction!r}"
        weight = answers.regularization_weight
        assert isinstance(weight, int | float) and 0 <= weight < math.inf, f"regularization_weight is {weight!r}"

    @Rule(
        Reconstruction,
        "before normalisation and quantisation",
        "hand out the latents that the decoder (or the codebook) was given, not detached, or leave z out",
    )
    def test_z_is_the_latents(self) -> None:
        """The z of a pass, if it gives one, is the raw latents, with their graph."""
        stage = self.trained()
        z = self._pass(stage, self._images(), None).z
        if z is None:
            return
        with torch.no_grad():
            raw = stage.latents(stage.encode_moments(self._images()))  # a fresh normalisation changes nothing
        assert z.shape == raw.shape, f"z has shape {tuple(z.shape)}, latents have {tuple(raw.shape)}"
        assert z.requires_grad, "z is detached"
        far = largest_difference(z.detach().float(), raw)
        assert far <= 1e-3 * (1 + float(raw.abs().max())), f"z and the mode's raw latents differ by {far:.2g}"

    def _images(self) -> Tensor:
        image: Tensor = self.inputs(range(2), self.sizes[0])["image"]
        return image

    def _moments(self, stage: Any) -> Tensor:
        with torch.no_grad():
            moments: Tensor = stage.encode_moments(self._images())
        return moments

    @staticmethod
    def _pass(stage: Any, x: Tensor, streams: Streams | None) -> Reconstruction:
        found = stage.reconstruct(x, streams=streams)
        assert isinstance(found, Reconstruction), f"reconstruct gave {type(found).__name__}, not a Reconstruction"
        return found


class TrainedStageSuite(_Offers):
    """The part of :class:`~ldm_core.testing.FirstStageSuite` for stages with weights.

    `trainable` False is for a stage whose weights come from elsewhere, and which no run trains.
    """

    @Rule(
        TrainableStage.reconstruct,
        "its image and regularization reach every parameter",
        "return Reconstruction(image, regularization, logs) with a graph to each parameter, and drop idle ones",
    )
    def test_training_reaches_every_parameter(self) -> None:
        """The image and the regularization of a training pass have gradients for all parameters."""
        stage, x = self.trained().train(), self._images()
        image, regularization, *_ = self._pass(stage, x, Streams([1, 2]))
        assert image.shape == x.shape, f"reconstruct gave an image of shape {tuple(image.shape)}"
        assert regularization.dim() == 0, f"regularization has shape {tuple(regularization.shape)}, not ()"
        (image.float().square().mean() + regularization).backward()
        gradients: Mapping[str, Tensor | None] = {n: p.grad for n, p in stage.named_parameters()}
        lost = [n for n, g in gradients.items() if g is None or not bool(g.isfinite().all())]
        assert not lost, f"training does not reach {', '.join(lost)}"

    @Rule(
        TrainableStage.reconstruct,
        "without streams it is what ``decode`` makes of the mode",
        "take the same path as encode_moments, latents and decode, less the normalisation",
    )
    def test_a_pass_is_what_decoding_shows(self) -> None:
        """The image of a pass in eval mode without streams is decode(latents(encode_moments(x)))."""
        stage, x = self.trained(), self._images()
        self.learn(stage)
        with torch.no_grad():
            image = self._pass(stage, x, None).image
            shown = stage.decode(stage.latents(stage.encode_moments(x)))
        far = largest_difference(image, shown)
        assert far <= 1e-3 * (1 + float(shown.abs().max())), f"reconstruct and decode differ by {far:.2g}"

    @Rule(
        TrainableStage.reconstruct,
        "drawn from stream i alone",
        "hand the streams to the same draw as latents does, and draw nothing else",
    )
    def test_a_pass_draws_from_the_streams(self) -> None:
        """Equal streams give an equal image, row by row; no global generator moves."""
        stage, x = self.trained(), self._images()
        before = generators()
        with torch.no_grad():
            first, again, alone = (
                self._pass(stage, rows, Streams(seeds)).image
                for rows, seeds in ((x, [1, 2]), (x, [1, 2]), (x[1:], [2]))
            )
        assert same(before, generators()), "reconstruct draws from a global generator"
        assert same(first, again), "equal streams gave other images"
        far = largest_difference(first[1:], alone)
        assert far <= self.atol * (1 + float(alone.abs().max())), f"row 1 alone and in a batch differ by {far:.2g}"

    @Rule(
        TrainableStage.reconstruct,
        "Logs are detached, and finite",
        "detach each log; let diagnostics make a scalar () of each log with axes, under a name of its own",
    )
    def test_logs_become_scalars(self) -> None:
        """Logs hold no graph; `diagnostics` makes scalars of those with axes, and changes none."""
        stage = self.trained().train()
        logs = self._pass(stage, self._images(), Streams([1, 2])).logs
        for name, value in logs.items():
            assert isinstance(value, Tensor), f"log '{name}' is {type(value).__name__}, not a tensor"
            assert not value.requires_grad, f"log '{name}' holds the graph"
            assert bool(value.isfinite().all()), f"log '{name}' is not finite"
        wide = {name: value.float() for name, value in logs.items() if value.dim()}
        diagnostics = configs.of(FirstStageAnswers, stage).diagnostics
        if diagnostics is None or not wide:
            return
        given = {name: value.clone() for name, value in wide.items()}
        scalars = diagnostics(given)
        assert same(given, wide), "diagnostics changed the logs that it was handed"
        for name, value in scalars.items():
            assert value.dim() == 0, f"diagnostics made '{name}' of shape {tuple(value.shape)}, not ()"
            assert name not in logs, f"diagnostics made '{name}', which is a log already"

    @Rule(
        TrainableStage,
        "A stage with a codebook also offers",
        "offer quantizing, quantize, init_codebook and revive, and log codebook_counts in reconstruct",
    )
    def test_a_codebook_is_whole(self) -> None:
        """A stage with a codebook counts its codes, and decodes without them while `quantizing` is False."""
        stage = self._with_codebook()
        assert isinstance(stage.quantize, nn.Module), "quantize is no module"
        counts = self._pass(stage, self._images(), None).logs.get(COUNTS)
        assert counts is not None and counts.dim() == 1, f"reconstruct logs no {COUNTS} (codes,)"
        assert int(counts.sum()) == self._moments(stage)[:, 0].numel(), f"{COUNTS} do not add up to the latents"
        stage.quantizing = False
        plain = self._pass(stage, self._images(), None)
        assert COUNTS not in plain.logs, "codes are counted while quantizing is False"
        assert plain.regularization.dim() == 0, "regularization is no scalar while quantizing is False"

    @Rule(
        FirstStageAnswers,
        "`indices` are the codes",
        "give of raw moments the index of each latent's code, int64, without the channels' axis",
    )
    def test_indices_are_the_codes_that_are_counted(self) -> None:
        """`indices` of the moments, counted, are the pass's counts, and `codebook_size` is their number."""
        stage = self._with_codebook()
        answers = configs.of(FirstStageAnswers, stage)
        if answers.indices is None:
            pytest.skip("this stage does not hand out its codes")
        counts, moments = self._pass(stage, self._images(), None).logs[COUNTS], self._moments(stage)
        with torch.no_grad():
            found = answers.indices(moments)
        wanted = (len(moments), *moments.shape[2:])
        assert found.dtype == torch.int64 and found.shape == wanted, (
            f"indices gives {found.dtype} {tuple(found.shape)}, not torch.int64 {wanted}"
        )
        size = answers.codebook_size
        assert size == len(counts), f"codebook_size is {size}, and {len(counts)} codes are counted"
        assert int(found.min()) >= 0 and int(found.max()) < size, f"indices go beyond the {size} codes"
        assert same(torch.bincount(found.flatten(), minlength=size), counts.long()), (
            "indices are other codes than counted"
        )

    @_CODEBOOK
    def test_a_codebook_starts_from_latents(self) -> None:
        """`init_codebook` writes the codes alone, by its seed alone."""
        found = []
        for seed in (3, 3, 4):
            stage = self._with_codebook()
            self._writes_codes_alone(stage, lambda s, seed=seed: s.init_codebook(self._moments(s), seed=seed))
            found.append({k: v.clone() for k, v in stage.quantize.state_dict().items()})
        assert same(found[0], found[1]), "init_codebook of one seed gives other codes at the second time"
        assert not same(found[0], found[2]), "init_codebook of another seed gives the same codes"

    @_CODEBOOK
    def test_a_codebook_revives_what_is_dead(self) -> None:
        """`revive` moves the dead codes onto latents, says how many, and leaves the others."""
        stage = self._with_codebook()
        count = len(self._pass(stage, self._images(), None).logs[COUNTS])
        dead = torch.arange(count) % 2 == 0
        before = {k: v.clone() for k, v in stage.quantize.state_dict().items()}
        latents = self._moments(stage).movedim(1, -1).flatten(0, -2)  # (N, C), as the core gathers them
        moved: list[int] = []
        self._writes_codes_alone(stage, lambda s: moved.append(s.revive(latents, dead, seed=3)))
        assert 0 < moved[0] <= int(dead.sum()), f"revive says that it moved {moved[0]} of {int(dead.sum())} dead codes"
        for name, value in stage.quantize.state_dict().items():
            if value.dim() and len(value) == count:
                assert same(value[~dead], before[name][~dead]), "revive moved codes that are in use"

    def _writes_codes_alone(self, stage: Any, write: Any) -> None:
        codes = {id(p) for p in stage.quantize.parameters()}
        others = {n: p.detach().clone() for n, p in stage.named_parameters() if id(p) not in codes}
        before = generators()
        with torch.no_grad():
            write(stage)
        assert same(before, generators()), "the codebook draws from a global generator"
        now = dict(stage.named_parameters())
        changed = [name for name, value in others.items() if not same(value, now[name].detach())]
        assert not changed, f"the codebook's start or revival changes {', '.join(changed)}"

    def _with_codebook(self) -> Any:
        stage = self.trained()
        answers = configs.of(FirstStageAnswers, stage)
        if answers.init_codebook is None and answers.revive is None:
            pytest.skip("this stage has no codebook")
        return stage
