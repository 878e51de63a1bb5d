"""The scores of a first stage on held-out images: PSNR, SSIM, a Fréchet distance, those of its objective, a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm_core.contracts import StageObjectiveAnswers
from ldm_core.contracts.configs import of
from ldm_core.data import images
from ldm_core.data.collate import to_images
from ldm_core.recipe.settings import FirstStageTrainerSettings
from ldm_core.training.engine.world import World
from ldm_core.training.first_stage.frechet import RandomFeatures, frechet_distance
from ldm_core.training.first_stage.metrics import image_scores, quantize

Again = Callable[[Tensor], Tensor]
"""Images (B, c, H, W) in [-1, 1] to their reconstructions, not clamped."""

_BLOCK = 16  # images reconstructed at once; the same on any number of processes, so the bits are, too
_SHOWN = 16


class HeldOut:
    """Held-out images and the quality of their reconstructions, shared out over the processes.

    `examples`: uint8 images (c, H, W) under the key ``image``, by index. `objective` may have further scores, and
    features for the Fréchet distance (:class:`ldm_core.contracts.StageObjectiveAnswers`); without, it is ``fd_random``.
    """

    def __init__(self, examples: Any, settings: FirstStageTrainerSettings, world: World, objective: object) -> None:
        answers = of(StageObjectiveAnswers, objective)
        self._examples, self._world, self._scores = examples, world, answers.scores
        self.count = min(settings.validate_images, len(examples))
        features: Any = answers.features or RandomFeatures()
        self._features, self._name = features.to(world.device), features.name
        self._of_originals: dict[int, Tensor] = {}

    @torch.no_grad()
    def measure(self, again: Again, cut: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """The mean ``psnr`` (dB), ``ssim`` and the objective's scores over the images, and the Fréchet distance.

        SSIM is left out if the images are too small for it, the Fréchet distance if there is but one
        image. The same on every process and with any number of them; every process must call it. Nothing if `cut`,
        asked before each block, was true on one of them.
        """
        own: dict[int, tuple[dict[str, Tensor], Tensor, Tensor]] = {}
        off = False
        blocks = range(self._world.rank, -(-self.count // _BLOCK), self._world.size)
        for block in blocks:
            if off := cut():
                break
            originals = self._block(block)
            x = to_images(originals).to(self._world.device)
            y = to_images(_levels(again(x))).to(self._world.device)  # as it would be saved
            scores = image_scores(x, y)
            if self._scores is not None:
                scores.update(self._scores(x, y))
            if block not in self._of_originals:
                self._of_originals[block] = self._seen(x)
            own[block] = ({k: v.cpu() for k, v in scores.items()}, self._of_originals[block], self._seen(y))
        if self._world.any(off):
            return {}
        parts = [own] if self._world.size == 1 else self._world.gather(own)
        rows = [row for _, row in sorted((block, row) for part in parts for block, row in part.items())]
        found = {k: float(torch.cat([row[0][k] for row in rows]).mean()) for k in rows[0][0]}
        if self.count > 1:
            found[self._name] = frechet_distance(*(torch.cat([row[i] for row in rows]) for i in (1, 2)))  # type: ignore[misc]
        return found

    @torch.no_grad()
    def sheet(self, again: Again) -> bytes:
        """A PNG of up to 16 images, each with its reconstruction to its right."""
        originals = self._block(0)[:_SHOWN]
        made = _levels(again(to_images(originals).to(self._world.device)))
        shown = [x for pair in zip(originals, made, strict=True) for x in pair]
        return images.png_bytes(images.grid(shown, columns=8, cell=96))

    def _block(self, number: int) -> np.ndarray:
        """Block `number` of the images, uint8 (up to 16, c, H, W)."""
        first, whole = number * _BLOCK, len(self._examples)
        # from evenly spaced places of the data, which may be sorted
        places = [i * whole // self.count for i in range(first, min(first + _BLOCK, self.count))]
        return np.stack([self._examples[i]["image"] for i in places])

    def _seen(self, x: Tensor) -> Tensor:
        return self._features(x).cpu()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in training into eval mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores with their meaningful digits."""
    return {k: float(f"{v:.6g}") for k, v in scores.items()}


def described(scores: Mapping[str, float]) -> str:
    """Scores in words, for the terminal."""
    words = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}"}
    return ", ".join(words.get(k, k + " {:.4g}").format(v) for k, v in scores.items())


def _levels(image: Tensor) -> np.ndarray:
    return quantize(image).cpu().numpy()
