"""The plain objective of first stages: a reconstruction error and the stage's regularisation."""

from __future__ import annotations

from torch.nn import functional as F

from ldm_core.builtin.reconstruction.config import ReconstructionConfig
from ldm_core.contracts import FirstStageAnswers, Site, StageBatch, StageLoss, StageObjective, TrainableStage
from ldm_core.contracts.configs import of


class ReconstructionObjective(StageObjective):
    """Loss = error + weight · regularization.

    The error of a pixel is abs(d), d² or Huber's, which is d² / 2 up to `huber_delta` and grows as
    `huber_delta` · abs(d) beyond. It is averaged over all values or, for a stage whose `nll_reduction` is "sum", summed
    over those of an image: the regularisation is made for that scale.
    """

    def __init__(self, config: ReconstructionConfig, site: Site) -> None:
        self.config = config

    def loss(self, stage: TrainableStage, batch: StageBatch) -> StageLoss:
        """The loss of a micro-batch; logs: loss, pixel (the mean error), regularization, and those of the stage."""
        answers, weight = of(FirstStageAnswers, stage), self.config.regularization_weight
        made = stage.reconstruct(batch.images, streams=batch.streams("first_stage"))
        image, target = made.image.float(), batch.images.float()
        if self.config.loss == "huber":
            error = F.huber_loss(image, target, delta=self.config.huber_delta)
        else:
            error = (F.l1_loss if self.config.loss == "l1" else F.mse_loss)(image, target)
        regularization = made.regularization.float().mean()
        scale = target[0].numel() if answers.nll_reduction == "sum" else 1
        value = error * scale + (answers.regularization_weight if weight is None else weight) * regularization
        logs = {name: log.detach().float() for name, log in made.logs.items()}
        logs |= {"pixel": error.detach(), "regularization": regularization.detach(), "loss": value.detach()}
        return StageLoss(value, logs, image.detach(), made)
