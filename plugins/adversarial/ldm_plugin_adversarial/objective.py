"""The adversarial loss as the stage objective of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import Site, StageBatch, StageLoss, StageObjective, StageTraining, TrainableStage
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import ConfigError
from ldm_core.model.fill import seeded
from ldm_plugin_adversarial.codebook import COUNTS, CodebookCare
from ldm_plugin_adversarial.config import LPIPS_SIDE, AdversarialConfig, AdversarialStageConfig
from ldm_plugin_adversarial.discriminator import PatchDiscriminator
from ldm_plugin_adversarial.equivariance import take_raw_latents
from ldm_plugin_adversarial.loss import Balance, DiscriminatorLoss, GeneratorLoss, adaptive_weight
from ldm_plugin_adversarial.perceptual.config import PerceptualConfig


class AdversarialObjective(nn.Module, StageObjective):
    """L1 or L2, perceptual distance, patch discriminator, the stage's regularisation, and the care of a codebook.

    The loss is :class:`GeneratorLoss`; the one opponent, ``discriminator``, is trained by :class:`DiscriminatorLoss`.
    """

    def __init__(self, config: AdversarialConfig, site: Site) -> None:
        super().__init__()
        self.config, self._site = config, site
        self.opponents: Mapping[str, DiscriminatorLoss] = {}
        self._distance: list[nn.Module] = []  # in a list, so that nn.Module does not see it
        self._penalty: Tensor | None = None

    def prepare(self, stage: Any, training: StageTraining) -> None:
        """Make the losses for `stage`; ConfigError if it lacks a name of ``AdversarialStage``."""
        config, own = self.config, of(AdversarialStageConfig, training.stage_config)
        start = config.start(training.stage_config, training.steps)
        if config.equivariance_weight:
            take_raw_latents(stage, training.device)
        adversary = self._adversary(training, start)
        generator = GeneratorLoss(
            stage,
            adversary,
            self.perceptual(training.device),
            perceptual_weight=config.perceptual_weight,
            pixel_loss=config.pixel_loss,
            disc_weight=own.adversarial_weight if config.adversarial_weight is None else config.adversarial_weight,
            disc_start=start,
            log_variance=config.log_variance,
            reduce=training.average,
        )
        generator.equivariance_weight = config.equivariance_weight
        self.log_variance = generator.log_variance
        self._generator = (generator,)
        self._average = training.average
        if adversary is not None:
            loss = _Discriminator(adversary, disc_start=start, r1_weight=config.r1_weight, r1_every=config.r1_every)
            self.opponents = {"discriminator": loss}
        self._codebook = CodebookCare(stage, config, training)
        if config.equivariance_weight and self._codebook.waits:
            raise ConfigError(
                "equivariance_weight: halved latents are decoded, and so quantised, from the first batch on; set "
                "stage_objective.codebook_start=0, or equivariance_weight=0"
            )
        self._tell(training)

    def loss(self, stage: TrainableStage, batch: StageBatch) -> StageLoss:
        """The autoencoder's loss of a micro-batch."""
        out: StageLoss = self._generator[0](
            batch.images, batch.step, batch.streams("first_stage"), cast("Balance | None", batch.whole)
        )
        return out

    def survey(self, stage: TrainableStage, batches: Sequence[StageBatch]) -> Sequence[Balance | None]:
        """For several micro-batches, their common adaptive weight, needed by each before its backward pass."""
        generator = self._generator[0]
        if not generator.adversarial(batches[0].step):
            return [None] * len(batches)
        pairs = [generator.compare(b.images, b.streams("first_stage")) for b in batches]
        gradients = torch.stack([last for _, last in pairs]).mean(0)
        weight = adaptive_weight(*gradients, reduce=self._average)
        return [Balance(comparison, weight) for comparison, _ in pairs]

    def before_step(self, step: int) -> None:
        """Start the codebook with its batch."""
        self._codebook.start(step)

    def after_step(
        self, step: int, images: Sequence[Tensor], logs: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Revive codes; give every log line the latest R1 penalty, as most steps have none of their own."""
        self._codebook.revive(step, images, [found.get(COUNTS) for found in logs])
        if "r1" in logs[0]:
            self._penalty = torch.stack([found["r1"] for found in logs]).mean()
        return {} if self._penalty is None else {"r1": self._penalty}

    def state(self) -> Mapping[str, Tensor]:
        """The uses of each code since the last revival."""
        return self._codebook.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._codebook.load_state(state)

    def scores(self, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """The perceptual distance (B,), if the recipe names one and the images suffice: ``lpips`` or ``features``."""
        distance, conf = self.perceptual(x.device), self.config.distance
        if distance is None or conf is None or (conf.use == "lpips" and min(x.shape[2:]) < LPIPS_SIDE):
            return {}
        return {conf.use: distance(x, y).flatten().double()}

    @property
    def features(self) -> nn.Module | None:
        """VGG16's features for the Fréchet distance, if the recipe names its weights."""
        if not self.config.fd_weights:
            return None
        from ldm_plugin_adversarial.perceptual.vgg16 import VGG16Features

        return VGG16Features(self.config.fd_weights.split(","))

    def perceptual(self, device: torch.device) -> nn.Module | None:
        """The recipe's perceptual distance, on `device`; None without any."""
        conf = self.config.distance
        if conf is not None and not self._distance:
            self._distance.append(_made(conf).to(device))
        return self._distance[0] if self._distance else None

    def _adversary(self, training: StageTraining, start: int) -> PatchDiscriminator | None:
        """The discriminator, from the recipe's seed; None if a run has none, or ends before batch `start`."""
        config, site = self.config, self._site
        if not config.adversarial or start >= training.steps:
            return None
        layers = config.layers(training.stage_config)
        with seeded(mix_seed(training.seed, "discriminator")):
            return PatchDiscriminator(site.channels, config.discriminator_width, layers, norm=config.discriminator_norm)

    def _tell(self, training: StageTraining) -> None:
        """Tell the user this recipe's surprises."""
        config = self.config
        if config.distance is None and config.perceptual is None:
            training.say(
                "first stage: trained without LPIPS or another perceptual distance, as the recipe gives no weights for "
                "one (stage_objective.lpips=PATH_OR_URL, or stage_objective.perceptual='{use: features, network: NAME, "
                "weights: PATH_OR_URL}')"
            )
        if config.adversarial and config.discriminator_norm == "batch" and training.processes > 1:
            training.say(
                "first stage: discriminator_norm=batch normalises over each process's own share of the batch, so the "
                "result depends on the number of processes (discriminator_norm=group does not)",
                "warning",
            )


def _made(conf: PerceptualConfig) -> nn.Module:
    """The perceptual distance of a config, with its weights; it imports timm."""
    if conf.use == "lpips":
        from ldm_plugin_adversarial.perceptual.lpips import LPIPS

        return LPIPS.from_weights(*conf.weights.split(","))
    from ldm_plugin_adversarial.perceptual.features import FeatureDistance

    return FeatureDistance(conf)


class _Discriminator(DiscriminatorLoss):
    """The discriminator's loss as the opponent of a stage."""

    def forward(self, batch: StageBatch, made: StageLoss) -> StageLoss:  # type: ignore[override]
        assert made.image is not None
        return super().forward(batch.images, made.image, batch.step, batch.streams("r1"))
