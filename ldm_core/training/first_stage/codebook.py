"""The care of a codebook in training: a start from data, and other places for unused codes.

A stage with a codebook offers ``init_codebook``, ``quantizing``, ``revive`` and ``quantize``, its codes as a module,
and logs ``codebook_counts`` (codes,), the count of each code in a pass, from ``reconstruct``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import FirstStage, FirstStageAnswers
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import ConfigError
from ldm_core.recipe.settings import FirstStageTrainerSettings
from ldm_core.training.engine.part import Part
from ldm_core.training.engine.world import World

COUNTS = "codebook_counts"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class CodebookCare:
    """Looks after the codebook of `stage`, trained by `part`; does nothing for a stage without one.

    The codes start from the latents of `first_images` at batch ``codebook_start``, or at the last one of a shorter run:
    the stage decodes through them in any case. Every ``revive_every`` steps, codes unused by the whole batch's latents
    since the last time move onto latents of the batch, and their optimizer state starts anew. All of it is the same for
    any number of processes and micro-batches.
    """

    def __init__(
        self,
        stage: FirstStage,
        part: Part,
        settings: FirstStageTrainerSettings,
        world: World,
        seed: int,
        first_images: Callable[[], Iterable[Tensor]],
    ) -> None:
        self._stage: Any = stage
        self._part, self._settings, self._world, self._seed = part, settings, world, seed
        self._first_images = first_images
        answers = of(FirstStageAnswers, stage)
        self._starts = answers.init_codebook is not None
        self._every = settings.revive_every if answers.revive is not None else 0
        self._from = min(settings.codebook_start, settings.steps - 1)
        self._counts: Tensor | None = None

    @torch.no_grad()
    def start(self, step: int) -> None:
        """Before batch `step`: set if it quantises, and start the codes if it is the first to do so."""
        if not self._starts:
            return
        self._stage.quantizing = step >= self._from
        if step == self._from and self._settings.codebook_init_images:
            latents = torch.cat([self._stage.encode_moments(x) for x in self._first_images()])
            self._stage.init_codebook(latents, seed=mix_seed(self._seed, "codebook"))
            self._share()

    @torch.no_grad()
    def revive(self, step: int, images: Sequence[Tensor], counts: Sequence[Tensor | None]) -> None:
        """After batch `step`, with the images (B, c, H, W) and counts (codes,) of its micro-batches on this process.

        Raises ConfigError for a reviving stage without counts.
        """
        if not self._every or step < self._from:
            return
        known = [c for c in counts if c is not None]
        if len(known) < len(images):
            raise ConfigError(
                f"first_stage_trainer.revive_every: {type(self._stage).__name__}.reconstruct logs no {COUNTS}; "
                "log them, or set revive_every=0"
            )
        used = self._world.sum(torch.stack(known).sum(0).long())
        self._counts = used if self._counts is None else self._counts + used
        if (step + 1) % self._every:
            return
        dead, self._counts = self._counts == 0, None
        if bool(dead.any()):
            latents = [self._gathered(self._stage.encode_moments(x)) for x in images]
            self._stage.revive(torch.cat(latents), dead, seed=mix_seed(self._seed, "revive", step))
            self._share()
            self._forget(dead)

    def state(self) -> dict[str, Tensor]:
        """The state for a resumed run: the uses of each code since the last revival."""
        return {} if self._counts is None else {COUNTS: self._counts.cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._counts = state[COUNTS].to(self._world.device) if COUNTS in state else None

    def _gathered(self, latents: Tensor) -> Tensor:
        """A micro-batch's latents (B, C, *s) of all processes, in the batch's order: (N, C)."""
        latents = latents.movedim(1, -1).flatten(0, -2)
        if self._world.size == 1:
            return latents
        return torch.cat(self._world.gather(latents.cpu())).to(latents.device)  # with buckets, N may differ

    def _share(self) -> None:
        """Share the codes written in place: the first process's for all (sums on a GPU differ in the last bits, and
        once unequal weights stay so), and into ZeRO's own copies."""
        codes: nn.Module = self._stage.quantize
        for parameter in codes.parameters():
            parameter.data.copy_(self._world.broadcast(parameter.data))
        self._part.adopt(codes)

    def _forget(self, rows: Tensor) -> None:
        """Optimizer state of the codes in `rows` (codes,): their past gradients were for another place."""
        for parameter in self._stage.quantize.parameters():
            if parameter.shape[:1] != rows.shape or not parameter.requires_grad:
                continue
            for key in _MOMENTS:
                if self._settings.zero:
                    from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state

                    value = safe_get_full_optimizer_state(parameter, key)
                    if value is not None:
                        value[rows] = 0.0
                        safe_set_full_optimizer_state(parameter, value, key)
                elif key in (own := self._part.engine.optimizer.state.get(parameter, {})):
                    own[key][rows] = 0.0
