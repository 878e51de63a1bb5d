"""Training a run's first stage: the loop, its latents' statistics, what it is worth on held-out images, its file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from ldm_core import artifacts, images, storage
from ldm_core.batch import to_images
from ldm_core.build import make_first_stage
from ldm_core.config import unstructure
from ldm_core.contracts import FirstStage
from ldm_core.pipeline import reconstruct
from ldm_core.recipe import versions
from ldm_core.streams import mix_seed
from ldm_core.training import curves
from ldm_core.training.first_stage_task import FirstStageTask, fit_normalization
from ldm_core.training.loader import Examples, Loader
from ldm_core.training.loop import train
from ldm_core.training.reconstruction_metrics import quality

if TYPE_CHECKING:
    from ldm_core.training.stages import Stages

_SHOWN = 16


def train_first_stage(work: Stages, identity: str) -> None:
    """Train the first stage of `work`, fit its latents' statistics, measure it and write its file."""
    recipe, settings, world = work.recipe, work.recipe.first_stage_trainer, work.run.world
    world.barrier()  # before anyone writes, all have seen that there is nothing yet
    examples = Examples(work.dataset, recipe.image_size, recipe.data, ["image"])
    stage: Any = make_first_stage(recipe, work.catalog)
    stage.to(world.device)
    if any(p.requires_grad for p in stage.parameters()):
        if not settings.lpips:
            work.run.say(
                "first stage: trained without LPIPS, as the recipe gives no weights for it "
                "(first_stage_trainer.lpips=PATH_OR_URL)"
            )
        loader = Loader(
            examples.__getitem__,
            examples.arrangement,
            examples.keys,
            images_per_step=settings.images_per_step,
            accumulate=settings.accumulate,
            steps=settings.steps,
            world=world,
            seed=mix_seed(recipe.seed, "first_stage"),
            workers=recipe.data.workers,
        )
        task = FirstStageTask(
            stage, recipe, world, lambda: first_images(work, examples, settings.codebook_init_images)
        )
        folder = storage.join(work.out, "checkpoints", "first_stage")
        train(task, loader, settings, work.run, folder=folder, identity=identity)
    stage.eval().requires_grad_(False)
    few = min(settings.statistics_images, len(examples))
    seeds = [mix_seed(recipe.seed, "statistics", i) for i in range(few)]
    batches = first_images(work, examples, few)
    fit_normalization(stage, ((x, seeds[i * 32 : i * 32 + len(x)]) for i, x in enumerate(batches)))
    work.use_stage(stage)
    evaluate(work, stage)
    work.report_bad(examples)
    if world.main:
        meta = artifacts.metadata(
            "first_stage",
            recipe.first_stage.use,
            unstructure(recipe.first_stage.config),
            versions(recipe, work.catalog),
            identity=identity,
            image_channels=recipe.image_channels,
            image_size=list(recipe.image_size),
            numbers=work.numbers,
        )
        state = {k: v.detach().cpu().contiguous() for k, v in stage.state_dict().items()}
        storage.atomic_write(work.stage_url, save(state, metadata=meta))
        for name, data in curves.pictures(work.run.metrics.read(), "first_stage").items():
            work.picture("first_stage", settings.steps, name, data)
    world.barrier()


def first_images(work: Stages, examples: Examples, count: int) -> Iterator[torch.Tensor]:
    """The first `count` images (or all) as batches of at most 32 tensors in [-1, 1], on the run's device."""
    count = min(count, len(examples))
    for start in range(0, count, 32):
        batch = [examples[i]["image"] for i in range(start, min(start + 32, count))]
        yield to_images(np.stack(batch)).to(work.run.world.device)


def evaluate(work: Stages, stage: FirstStage) -> None:
    """PSNR, SSIM and a picture of reconstructions of held-out images."""
    dataset, held_out = work.held_out()
    examples = Examples(dataset, work.recipe.image_size, work.recipe.data, ["image"])
    originals = np.stack([e["image"] for e in examples.first(work.recipe.first_stage_trainer.validate_images)])
    again = reconstruct(stage, originals, work.run.world.device)
    scores = quality(torch.from_numpy(originals), torch.from_numpy(again))
    work.numbers.update(scores, evaluated_images=float(len(originals)), held_out=float(held_out))
    shown = [x for pair in zip(originals[:_SHOWN], again[:_SHOWN], strict=True) for x in pair]
    sheet = images.grid(shown, columns=8, cell=96)
    work.picture("first_stage", 0, "reconstructions.png", images.png_bytes(sheet))
    work.run.metrics.write(stage="first_stage_evaluation", step=0, **work.numbers)
    kind = "held-out" if held_out else "training"
    work.run.say(
        f"first stage: PSNR {scores['psnr']:.2f} dB"
        + (f", SSIM {scores['ssim']:.3f}" if "ssim" in scores else "")
        + f" on {len(originals)} {kind} images"
    )
