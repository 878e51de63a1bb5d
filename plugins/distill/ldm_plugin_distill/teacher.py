"""The trained model of a distillation: its weights, its conditions, its guided estimate."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Cond, LossContext, NoiseSchedule, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.model.diffusion import Model, make_predict, per_example
from ldm_core.sampling import second_model
from ldm_core.sampling.run import conditions_of
from ldm_plugin_distill.adversarial.features import Features
from ldm_plugin_distill.config import UNNAMED, DistillationConfig
from ldm_plugin_distill.kept import around, copied


class Teacher:
    """A frozen model. It is no module, so no checkpoint holds it: the hash of its file tells its weights.

    Its conditioners encode the batch, unless the student's are frozen at the same weights: then it is handed the
    student's bundles, with conditions dropped as in training.
    """

    def __init__(self, model: Model, name: str, *, shares: bool) -> None:
        self._model, self._name, self._shares = model, name, shares

    @classmethod
    def of(cls, config: DistillationConfig, site: Site, student: Model) -> Teacher:
        """The model named by the config, or, where it names none, the student as it is now.

        CheckpointError for another file than the recipe's, other latents or another schedule.
        """
        if not config.teacher:
            if config.sha256 or student.attached:
                raise ConfigError(f"objective: {UNNAMED}")
            return cls(around(student, copied(student)).eval(), "the student", shares=True)
        found = second_model.find(config.teacher, site)
        if config.sha256 and found.sha256 != config.sha256:
            raise CheckpointError(
                f"{config.teacher}: is not the teacher that was named (sha256 {found.sha256[:12]}, the recipe says "
                f"{config.sha256[:12]}); give the right file with objective.teacher"
            )
        model = second_model.load(found, attrs.evolve(site, precision=student.precision)).to(student.device)
        second_model.require_levels(model, student.schedule, config.teacher)
        return cls(model, config.teacher, shares=_same_conditions(model, student))

    def conditions(self, cond: Cond, context: LossContext, seeds: tuple[int, ...]) -> tuple[Cond, Cond]:
        """The bundles with and without the conditions, of the batch; `cond` are the student's."""
        if self._shares:
            return cond, context.conditions.null
        for name, conditioner in self._model.conditioners.items():
            for key in conditioner.reads:  # type: ignore[union-attr]
                if key not in context.batch:
                    raise DataError(
                        f"conditioner '{name}' of the teacher {self._name} reads '{key}', which no conditioner of the "
                        "student does; give the student the same inputs"
                    )
        conditions = conditions_of(self._model, context.batch, seeds=seeds)
        return conditions.cond, conditions.null

    def x0(self, x: Tensor, t: Tensor, bundles: tuple[Cond, Cond], scale: Tensor | None) -> Tensor:
        """x (B, C, *s), t (B,) -> null + scale (cond - null), float32; the conditional estimate where `scale` (B,) is
        None."""
        predict = make_predict(self._model)
        if scale is None:
            return predict(x, t, bundles[:1])[0].x0
        cond, null = (estimate.x0 for estimate in predict(x, t, bundles))
        return null + per_example(scale, x) * (cond - null)

    def features(self, site: Site, layers: Sequence[str]) -> Features:
        """The features of some of its network's layers; of four where none is named."""
        return Features(self._model, site, layers)


def down(schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x (B, ...) at t (B,) -> x at s along x0 (B, ...), the step of DDIM without noise; sigma(t) is not 0."""
    keep = schedule.sigma(s) / schedule.sigma(t)
    return per_example(keep, x) * x + per_example(schedule.alpha(s) - keep * schedule.alpha(t), x) * x0


def _same_conditions(teacher: Model, student: Model) -> bool:
    """True if the student's conditioners are frozen and have the teacher's weights."""
    if any(parameter.requires_grad for parameter in student.conditioners.parameters()):
        return False
    mine, theirs = student.conditioners.state_dict(), teacher.conditioners.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name]
        for name, value in mine.items()
    )
