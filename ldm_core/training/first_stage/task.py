"""Training a first stage: autoencoder against patch discriminator, two parts with an optimizer each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStage, FirstStageAnswers, PartAnswers
from ldm_core.contracts.configs import FirstStageConfig, of
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.contracts.values import Precision
from ldm_core.errors import ConfigError
from ldm_core.model.arithmetic import arithmetic
from ldm_core.model.fill import seeded
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.averages.ema import EMA
from ldm_core.training.bad_steps import Guard, spoiled
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.first_stage.codebook import COUNTS, CodebookCare


class _Autocast(nn.Module):
    """A part's loss with its networks under autocast; the loss itself is float32."""

    def __init__(self, loss: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.loss, self._precision = loss, precision

    def forward(self, *args: Any) -> Any:
        """As the loss's."""
        with self._autocast():
            return self.loss(*args)

    def _autocast(self) -> Any:
        return arithmetic(next(self.parameters()).device.type, self._precision)


class _GeneratorAutocast(_Autocast):
    loss: Any

    def compare(self, images: Tensor, streams: Streams) -> tuple[Any, Tensor]:
        """As the loss's."""
        with self._autocast():
            return self.loss.compare(images, streams)


class FirstStageTask:
    """The parts ``autoencoder`` and, from its starting batch on, ``discriminator``.

    `first_images`: images (B, c, H, W) for the start of a codebook; `perceptual`: an LPIPS, or none; `name_of` gives
    the name of a place's example, and `say` tells the user of steps left out. Raises ConfigError for settings in
    conflict.
    """

    stage = "first_stage"
    validate: Callable[[int], Mapping[str, float]] | None = None
    """Measures on held-out images, on every process; of the step it is told."""
    preview: Callable[[int], None] | None = None
    """Draws reconstructions."""

    def __init__(
        self,
        stage: FirstStage,
        recipe: Recipe,
        world: World,
        first_images: Callable[[], Iterable[Tensor]],
        perceptual: nn.Module | None = None,
        *,
        name_of: Callable[[Any], str] = str,
        say: Callable[[str, str], None] = lambda text, level: None,
    ) -> None:
        settings = recipe.first_stage_trainer
        self._recipe, self._settings, self._world, self._stage = recipe, settings, world, stage
        self._start = start_of_adversary(recipe)
        adversary = _adversary(recipe, self._start)
        own_weight = of(FirstStageConfig, recipe.first_stage.config).adversarial_weight
        generator = _loss().GeneratorLoss(
            stage,  # type: ignore[arg-type]
            adversary,
            perceptual,
            perceptual_weight=settings.perceptual_weight,
            pixel_loss=settings.pixel_loss,
            disc_weight=_either(settings.adversarial_weight, own_weight),
            disc_start=self._start,
            log_variance=settings.log_variance,
            reduce=world.average,
        )
        generator.train()
        self.ema: EMA | None = None
        section = "first_stage_trainer"
        self._generator = _GeneratorAutocast(generator, settings.precision)
        self._autoencoder = Part(
            "autoencoder", self._generator, settings, world, section, networks=_networks(stage), by_block=True
        )
        parts = [self._autoencoder]
        self._discriminator: Part | None = None
        if adversary is not None:
            loss = _loss().DiscriminatorLoss(
                adversary, disc_start=self._start, r1_weight=settings.r1_weight, r1_every=settings.r1_every
            )
            self._discriminator = Part("discriminator", _Autocast(loss, settings.precision), settings, world, section)
            parts.append(self._discriminator)
        self.parts: Sequence[Part] = parts
        self.part_steps = {p.name: 0 for p in self.parts}
        self.guards = {p.name: Guard(f"{self.stage} ({p.name})", section, settings, world, name_of, say) for p in parts}
        self._penalty: Tensor | None = None
        self._codebook = CodebookCare(stage, self._autoencoder, settings, world, recipe.seed, first_images)

    def prepare(self, start: int) -> None:
        """Nothing to prepare: a codebook starts with its batch."""

    def state(self) -> dict[str, Tensor]:
        """The state for a resumed run, beside weights and optimizers."""
        return {**self._codebook.state(), **{f"bad_steps_{k}": guard.state() for k, guard in self.guards.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._codebook.load_state(state)
        for name, guard in self.guards.items():
            if (known := state.get(f"bad_steps_{name}")) is not None:
                guard.load(known)

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One step of the autoencoder and, once it has started, one of the discriminator.

        With `measure`, logs are means over all micro-batches and processes; else there is the loss of this process's.
        """
        self._codebook.start(step)
        opponent = self._discriminator if self._discriminator and step >= self._start else None
        images = [_pictures(m) for m in micros]
        found: list[dict[str, Tensor]] = []
        losses: dict[str, list[Tensor]] = {part.name: [] for part in self.parts}
        norms: dict[str, float | None] = {}
        for x, micro, balance in zip(images, micros, self._balances(step, images, micros), strict=True):
            out = self._autoencoder.engine(x, step, self._streams(micro), balance)
            self._autoencoder.backward(spoiled(out.value))
            norms["grad_norm"] = self._autoencoder.step(measure=measure)
            losses["autoencoder"].append(_by_example(x, out))
            found.append(dict(out.logs))
            if opponent is not None:
                against = opponent.engine(x, out.image, step, self._streams(micro, "r1"))
                opponent.backward(spoiled(against.value))
                if len(found) == len(micros) and not self._autoencoder.applied:
                    opponent.discard()  # its fake images are worth no step
                else:
                    norms["grad_norm_discriminator"] = opponent.step(measure=measure)
                losses["discriminator"].append(against.value.detach().expand(len(x)))
                found[-1].update(against.logs)
        if not self._counted(self._autoencoder, step, micros, losses, measure):
            return {}
        if opponent is not None:
            self._counted(opponent, step, micros, losses, measure)
        self._codebook.revive(step, images, [f.get(COUNTS) for f in found])
        self._remember_penalty(found)
        if not measure:
            return {"loss": torch.stack([f["loss"] for f in found]).mean()}
        logs: dict[str, Any] = {**mean_logs(found, self._stage, self._world)}
        logs.update({k: v for k, v in norms.items() if v is not None})
        bad = sum(guard.bad for guard in self.guards.values())
        return {**logs, "bad_steps": bad} if bad else logs

    def _counted(
        self,
        part: Part,
        step: int,
        micros: Sequence[MicroBatch],
        losses: Mapping[str, Sequence[Tensor]],
        measure: bool,
    ) -> bool:
        """Say if a part's step counts; its guard raises if the run must stop."""
        places = [MicroBatch({}, m.places) for m in micros]  # a guard remembers them, and need not keep the images
        counts = self.guards[part.name].after(step, part, places, losses[part.name], measure=measure)
        self.part_steps[part.name] += counts
        return counts

    def _streams(self, micro: MicroBatch, purpose: str = "first_stage") -> Streams:
        return Streams(micro.seeds(self._recipe.seed, purpose), self._world.device)

    def _balances(self, step: int, images: list[Tensor], micros: Sequence[MicroBatch]) -> list[Any]:
        """For several micro-batches, their common adaptive weight, needed by each before its backward pass.

        The random numbers of dropout here are drawn again in the step.
        """
        generator = self._generator.loss
        if len(micros) == 1 or not generator.adversarial(step):
            return [None] * len(micros)
        with torch.random.fork_rng([self._world.device] if self._world.device.type == "cuda" else []):
            pairs = [self._generator.compare(x, self._streams(m)) for x, m in zip(images, micros, strict=True)]
        gradients = torch.stack([last for _, last in pairs]).mean(0)
        weight = _loss().adaptive_weight(*gradients, reduce=self._world.average)
        return [_loss().Balance(comparison, weight) for comparison, _ in pairs]

    def _remember_penalty(self, found: list[dict[str, Tensor]]) -> None:
        """Give every log line the latest R1 penalty: most steps have none of their own."""
        if "r1" in found[0]:
            self._penalty = torch.stack([f["r1"] for f in found]).mean()
        elif self._penalty is not None:
            for logs in found:
                logs["r1"] = self._penalty


def _by_example(x: Tensor, out: Any) -> Tensor:
    """A loss (B,) to tell the guilty example: its pixel error, or the loss itself if the error is finite and the loss
    is not."""
    errors = (cast(Tensor, out.image) - x).abs().flatten(1).mean(1)
    blamed = out.value.detach().isfinite() | ~errors.isfinite().all()
    return torch.where(blamed, errors, out.value.detach())


def _pictures(micro: MicroBatch) -> Tensor:
    images: Tensor = micro.batch["image"]
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def _adversary(recipe: Recipe, start: int) -> Any:
    """The discriminator, from the recipe's seed; None if a run has none, or ends before batch `start`."""
    settings = recipe.first_stage_trainer
    if not settings.adversarial or start >= settings.steps:
        return None
    own = of(FirstStageConfig, recipe.first_stage.config).discriminator_layers
    layers = _either(settings.discriminator_layers, _either(own, 3))
    with seeded(mix_seed(recipe.seed, "discriminator")):
        adversary = import_module("ldm_plugin_adversarial.discriminator").PatchDiscriminator(
            recipe.image_channels, settings.discriminator_width, layers, norm=settings.discriminator_norm
        )
    if min(recipe.image_size) < adversary.min_size:
        raise ConfigError(
            f"first_stage_trainer.discriminator_layers: {layers} strided layers need images of at least "
            f"{adversary.min_size} pixels, image_size is {list(recipe.image_size)}; use fewer layers, larger "
            "images, or adversarial=false"
        )
    return adversary


def start_of_adversary(recipe: Recipe) -> int:
    """The discriminator's first batch (from 0): the recipe's, as a number or as a share of the steps, or else the
    stage's own."""
    settings = recipe.first_stage_trainer
    if settings.adversarial_start_share is not None:
        return round(settings.adversarial_start_share * settings.steps)
    return int(_either(settings.adversarial_start, of(FirstStageConfig, recipe.first_stage.config).adversarial_start))


def _networks(stage: Any) -> list[nn.Module]:
    """The stage's recomputable parts, or all of its parts if it names none; codebooks stay as they are."""
    parts = list(stage.children())
    return [p for p in parts if of(PartAnswers, p).recompute_blocks is not None] or parts


def _either(first: Any, second: Any) -> Any:
    return second if first is None else first


def perceptual_distance(urls: str, world: World) -> nn.Module | None:
    """LPIPS with the weights at `urls` (several joined by commas), on the run's device; None without any."""
    if not urls:
        return None
    found: nn.Module = _lpips().from_weights(*urls.split(",")).to(world.device)
    return found


def _loss() -> Any:
    """The losses' module: until the loss is a part, found by its name, it comes by its module."""
    return import_module("ldm_plugin_adversarial.loss")


def _lpips() -> Any:
    return import_module("ldm_plugin_adversarial.perceptual.lpips").LPIPS


def mean_logs(micros: Sequence[Mapping[str, Tensor]], stage: Any, world: World) -> dict[str, Tensor]:
    """The mean of equal-named logs over micro-batches and processes, as scalars (); one reduction in all.

    Logs with axes (counts of codes, KL by channel) are averaged as they are and handed to the stage's
    ``diagnostics(logs)`` to make scalars of them: the number of codes in use by a whole batch does not follow from the
    numbers of its parts. A stage without it has their means. Every process must call it.
    """
    means = {k: torch.stack([m[k].detach().float() for m in micros]).mean(0) for k in sorted(micros[0])}
    if world.size > 1:
        whole = world.average(torch.cat([v.flatten() for v in means.values()]))
        parts = whole.split([v.numel() for v in means.values()])
        means = {k: part.view(v.shape) for (k, v), part in zip(means.items(), parts, strict=True)}
    out = {k: v for k, v in means.items() if v.dim() == 0}
    if wide := {k: v for k, v in means.items() if v.dim()}:
        find = of(FirstStageAnswers, stage).diagnostics
        out.update({k: v.mean() for k, v in wide.items()} if find is None else find(wide))
    return out
