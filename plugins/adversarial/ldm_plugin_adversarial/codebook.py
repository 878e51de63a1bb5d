"""The care of a codebook in training: a start from data, and other places for unused codes.

A stage with a codebook offers ``init_codebook``, ``quantizing``, ``revive`` and ``quantize``, its codes as a module,
and logs ``codebook_counts`` (codes,), the count of each code in a pass, from ``reconstruct``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts import FirstStageAnswers, StageTraining
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import ConfigError
from ldm_plugin_adversarial.config import AdversarialConfig

COUNTS = "codebook_counts"


class CodebookCare:
    """Looks after the codebook of `stage` in a `training`; does nothing for a stage without one.

    The codes start from latents at batch ``codebook_start``, or at the last one of a shorter run: the stage decodes
    through them in any case. Codes that were taken over quantise from the first batch on. Every ``revive_every`` steps,
    codes unused by the whole batch's latents since the last time move onto latents of the batch, and their optimizer
    state starts anew. All of it is the same for any number of processes and micro-batches.
    """

    def __init__(self, stage: Any, config: AdversarialConfig, training: StageTraining) -> None:
        self._stage, self._training = stage, training
        answers = of(FirstStageAnswers, stage)
        self._starts = answers.init_codebook is not None
        self._every = config.revive_every if answers.revive is not None else 0
        if self._every and not all(p.requires_grad for p in stage.quantize.parameters()):
            raise ConfigError(
                "stage_objective.revive_every: the codes are kept, as first_stage_trainer.train=decoder asks; set "
                "revive_every=0"
            )
        taken = self._starts and training.taken("quantize.")
        self._from = 0 if taken else min(config.codebook_start, training.steps - 1)
        self._images = 0 if taken else config.codebook_init_images
        self._counts: Tensor | None = None

    @property
    def waits(self) -> bool:
        """True if the first batches pass unquantised."""
        return self._starts and self._from > 0

    def start(self, step: int) -> None:
        """Before batch `step`: set if it quantises, and start the codes if it is the first to do so."""
        if not self._starts:
            return
        self._stage.quantizing = step >= self._from
        if step == self._from and self._images:
            images = self._training.first_images(self._images)
            latents = torch.cat([self._stage.encode_moments(x) for x in images])
            self._stage.init_codebook(latents, seed=mix_seed(self._training.seed, "codebook"))
            self._training.rewritten(self._stage.quantize)

    def revive(self, step: int, images: Sequence[Tensor], counts: Sequence[Tensor | None]) -> None:
        """After batch `step`, with the images (B, c, H, W) and counts (codes,) of its micro-batches on this process.

        Raises ConfigError for a reviving stage without counts.
        """
        if not self._every or step < self._from:
            return
        known = [c for c in counts if c is not None]
        if len(known) < len(images):
            raise ConfigError(
                f"stage_objective.revive_every: {type(self._stage).__name__}.reconstruct logs no {COUNTS}; log them, "
                "or set revive_every=0"
            )
        used = self._training.sum(torch.stack(known).sum(0).long())
        self._counts = used if self._counts is None else self._counts + used
        if (step + 1) % self._every:
            return
        dead, self._counts = self._counts == 0, None
        if bool(dead.any()):
            latents = [self._gathered(self._stage.encode_moments(x)) for x in images]
            self._stage.revive(torch.cat(latents), dead, seed=mix_seed(self._training.seed, "revive", step))
            self._training.rewritten(self._stage.quantize, rows=dead)

    def state(self) -> dict[str, Tensor]:
        """The state for a resumed run: the uses of each code since the last revival."""
        return {} if self._counts is None else {COUNTS: self._counts.cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._counts = state[COUNTS].to(self._training.device) if COUNTS in state else None

    def _gathered(self, latents: Tensor) -> Tensor:
        """A micro-batch's latents (B, C, *s) of all processes, in the batch's order: (N, C)."""
        latents = latents.movedim(1, -1).flatten(0, -2)
        if self._training.processes == 1:
            return latents
        return torch.cat(self._training.gather(latents.cpu())).to(latents.device)  # with buckets, N may differ
