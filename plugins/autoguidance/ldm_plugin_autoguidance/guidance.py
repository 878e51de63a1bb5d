"""Guidance away from a weaker model of the same task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from torch import Tensor

from ldm_core.contracts import Batch, Estimate, Guidance, NoiseSchedule, Predict, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.sampling import second_model
from ldm_core.sampling.guidance_interval import choose, inside
from ldm_plugin_autoguidance.config import UNNAMED, AutoGuidanceConfig

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions
    from ldm_core.model.diffusion import Model


class AutoGuidance(Guidance):
    """x0 = weak + scale (strong - weak), both under all conditions.

    The weaker model encodes the run's batch with conditioners of its own, once a run. It may have another network and
    another parameterization; its schedule must have the same levels at the same times. Scale 1, and levels outside
    `interval` (low < sigma / alpha <= high), ask for the stronger model alone; scale 0 for the weaker one. The
    weaker model follows the batch's device. Channels beyond x0's are the stronger model's.
    """

    def __init__(self, config: AutoGuidanceConfig, site: Site) -> None:
        self.config = config
        self._model: Model | None = None
        self._moving = Lock()
        self._levels: NoiseSchedule | None = None
        if config.scale == 1.0:
            return
        if not config.model:
            raise ConfigError(f"guidance 'autoguidance': {UNNAMED}")
        found = second_model.find(config.model, site)
        if config.sha256 and found.sha256 != config.sha256:
            raise CheckpointError(
                f"{config.model}: is not the weaker model that was named (sha256 {found.sha256[:12]}, the recipe says "
                f"{config.sha256[:12]}); give the right file with guidance.model, or guidance.sha256= to take this one"
            )
        self._model = second_model.load(found, site)

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        rows = inside(self.config.interval, t, schedule)
        if self._model is None or (rows is not None and not bool(rows.any())):
            return predict(x, t, [conditions.cond])[0]
        self._require_levels(self._model, schedule)
        with self._moving:
            if self._model.device != x.device:
                self._model.to(x.device)
        weak = conditions.again(partial(self._encoded, conditions.seeds), self)(x, t).x0
        if self.config.scale == 0.0 and rows is None:
            return Estimate(weak)
        strong = predict(x, t, [conditions.cond])[0]
        return Estimate(choose(rows, weak + self.config.scale * (strong.x0 - weak), strong.x0), strong.extra)

    def _encoded(self, seeds: Sequence[int] | None, batch: Batch) -> Callable[[Tensor, Tensor], Estimate]:
        """The weaker model under a batch's conditions, whose noise is drawn from the images' `seeds`."""
        from ldm_core.model.diffusion import make_predict
        from ldm_core.sampling.run import conditions_of

        assert self._model is not None
        model = self._model
        for name, conditioner in model.conditioners.items():
            for key in conditioner.reads:  # type: ignore[union-attr]
                if key not in batch:
                    raise DataError(
                        f"conditioner '{name}' of the weaker model {self.config.model} reads '{key}', which no "
                        "conditioner of this model does; guide by a model with the same inputs"
                    )
        predict = make_predict(model)
        cond = conditions_of(model, batch, seeds=seeds).cond
        return lambda x, t: predict(x, t, [cond])[0]

    def _require_levels(self, model: Model, schedule: NoiseSchedule) -> None:
        """Raise :class:`CheckpointError` if the two schedules differ at the same times; once a schedule."""
        if self._levels is schedule:
            return
        second_model.require_levels(model, schedule, self.config.model)
        self._levels = schedule
