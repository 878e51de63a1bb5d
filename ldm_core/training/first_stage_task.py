"""Training a first stage: autoencoder against patch discriminator, two parts with an optimizer each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStage
from ldm_core.errors import ConfigError
from ldm_core.recipe import Recipe
from ldm_core.streams import Streams, mix_seed
from ldm_core.training.adversarial import DiscriminatorLoss, GeneratorLoss
from ldm_core.training.discriminator import PatchDiscriminator
from ldm_core.training.ema import EMA
from ldm_core.training.engine import Part
from ldm_core.training.loader import MicroBatch
from ldm_core.training.world import World


class _Autocast(nn.Module):
    """A part's loss with its networks under autocast; the loss itself is float32."""

    def __init__(self, loss: nn.Module, precision: str) -> None:
        super().__init__()
        self.loss, self._precision = loss, precision

    def forward(self, *args: Any) -> Any:
        """As the loss's."""
        device = next(self.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            return self.loss(*args)


class FirstStageTask:
    """Parts ``autoencoder`` and, from its starting batch on, ``discriminator``."""

    stage = "first_stage"

    def __init__(
        self, stage: FirstStage, recipe: Recipe, world: World, first_images: Callable[[], Iterable[Tensor]]
    ) -> None:
        from ldm_core.build import seeded

        self._first_images = first_images

        settings, config = recipe.first_stage_trainer, recipe.first_stage.config
        self._recipe, self._settings, self._world, self._stage = recipe, settings, world, stage
        start = _either(settings.adversarial_start, getattr(config, "adversarial_start", 0))
        weight = _either(settings.adversarial_weight, getattr(config, "adversarial_weight", 0.5))
        self._start = start
        adversary: PatchDiscriminator | None = None
        if settings.adversarial and start < settings.steps:
            layers = _either(settings.discriminator_layers, getattr(config, "discriminator_layers", 3))
            with seeded(mix_seed(recipe.seed, "discriminator")):
                adversary = PatchDiscriminator(
                    recipe.image_channels, settings.discriminator_width, layers, norm=settings.discriminator_norm
                )
            if min(recipe.image_size) < adversary.min_size:
                raise ConfigError(
                    f"first_stage_trainer.discriminator_layers: {layers} strided layers need images of at least "
                    f"{adversary.min_size} pixels, image_size is {list(recipe.image_size)}; use fewer layers, larger "
                    "images, or adversarial=false"
                )
        perceptual = _lpips(settings.lpips, world)
        generator = GeneratorLoss(
            stage,  # type: ignore[arg-type]
            adversary,
            perceptual,
            perceptual_weight=settings.perceptual_weight,
            pixel_loss=settings.pixel_loss,
            disc_weight=weight,
            disc_start=start,
            reduce=world.average,
        )
        generator.train()
        self.ema: EMA | None = None
        section = "first_stage_trainer"
        self._autoencoder = Part("autoencoder", _Autocast(generator, settings.precision), settings, world, section)
        parts = [self._autoencoder]
        self._discriminator: Part | None = None
        if adversary is not None:
            loss = _Autocast(DiscriminatorLoss(adversary, disc_start=start), settings.precision)
            self._discriminator = Part("discriminator", loss, settings, world, section)
            parts.append(self._discriminator)
        self.parts: Sequence[Part] = parts
        self.part_steps = {p.name: 0 for p in self.parts}
        self._counts: Tensor | None = None
        # A run that is shorter than that ends with a codebook all the same: the stage decodes through it.
        self._quantizes_from = min(settings.codebook_start, settings.steps - 1)

    def prepare(self, start: int) -> None:
        """Nothing to prepare: a codebook starts with its batch."""

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One step of the autoencoder and, once it has started, one of the discriminator."""
        seed = self._recipe.seed
        logs: dict[str, Any] = {}
        self._start_codebook(step)
        opponent = self._discriminator if self._discriminator and step >= self._start else None
        for micro in micros:
            images = micro.batch["image"]
            if images.device.type == "cpu":
                images = images.contiguous(memory_format=torch.channels_last)
            streams = Streams(micro.seeds(seed, "first_stage"), images.device)
            out = self._autoencoder.engine(images, step, streams)
            self._autoencoder.backward(out.value)
            norm = self._autoencoder.step(measure=measure)
            found = dict(out.logs)
            if norm is not None:
                found["grad_norm"] = norm
            if opponent is not None:
                against = opponent.engine(images, out.image, step)
                opponent.backward(against.value)
                opponent.step()
                found.update(against.logs)
            for key, value in found.items():
                logs[key] = logs.get(key, 0.0) + (value.mean() if isinstance(value, Tensor) else value) / len(micros)
        self.part_steps["autoencoder"] += 1
        if opponent is not None:
            self.part_steps["discriminator"] += 1
        self._revive(step, micros)
        return logs

    @torch.no_grad()
    def _start_codebook(self, step: int) -> None:
        stage: Any = self._stage
        if not hasattr(stage, "init_codebook"):
            return
        stage.quantizing = step >= self._quantizes_from
        if step == self._quantizes_from and self._settings.codebook_init_images:
            latents = torch.cat([stage.encode_moments(x) for x in self._first_images()])
            stage.init_codebook(latents, seed=mix_seed(self._recipe.seed, "codebook"))
            self._share_codes()

    def _share_codes(self) -> None:
        """Codes that were written in place: the first process's for all (sums on a GPU differ in the last bits, and
        weights that differ once stay so), and into ZeRO's own copies."""
        codes: nn.Module = self._stage.quantize  # type: ignore[attr-defined]
        if self._world.size > 1:
            for parameter in codes.parameters():
                torch.distributed.broadcast(parameter.data, 0)
        self._autoencoder.adopt(codes)

    @torch.no_grad()
    def _revive(self, step: int, micros: Sequence[MicroBatch]) -> None:
        every = self._settings.revive_every
        if not every or not hasattr(self._stage, "revive") or step < self._quantizes_from:
            return
        moments = self._stage.encode_moments(torch.cat([m.batch["image"] for m in micros]))
        counts = self._stage.codebook_usage(self._stage.indices(moments))  # type: ignore[attr-defined]
        counts = self._world.average(counts.float())
        self._counts = counts if self._counts is None else self._counts + counts
        if (step + 1) % every == 0:
            # every process must make the same choice, so all take the first one's latents
            if self._world.size > 1:
                torch.distributed.broadcast(moments, 0)
            self._stage.revive(moments, self._counts == 0, seed=mix_seed(self._recipe.seed, "revive", step))
            self._share_codes()
            self._counts = None


def _either(first: Any, second: Any) -> Any:
    return second if first is None else first


def _lpips(url: str, world: World) -> nn.Module | None:
    if not url:
        return None
    from ldm_core.training.lpips import LPIPS

    return LPIPS.from_weights(*url.split(",")).to(world.device)


@torch.no_grad()
def fit_normalization(stage: FirstStage, batches: Iterable[tuple[Tensor, Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Measure the mean and std (C,) of raw latents over (images, stream seeds) and hand them to the stage.

    Sums are taken in float64. A std of nothing (a constant channel) becomes 1.
    """
    channels = stage.latent.channels
    device = next(iter(stage.parameters()), torch.zeros(())).device  # type: ignore[attr-defined]
    stage.set_normalization(torch.zeros(channels, device=device), torch.ones(channels, device=device))
    count, total, squares = 0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for images, seeds in batches:
        z = stage.latents(stage.encode_moments(images), streams=Streams(seeds, images.device))
        z = z.double().cpu().transpose(0, 1).flatten(1)
        count += z.shape[1]
        total += z.sum(1)
        squares += z.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    stage.set_normalization(mean.float().to(device), std.float().to(device))
    return mean.float(), std.float()
