"""The Fréchet distance of pixel and latent diffusion after equal wall time, on real images of 64 pixels.

Both denoisers have about as many parameters and train side by side, one core each, without conditions; the latent
model's first stage is trained before (its time is told apart). The features are those of the core's fixed random
network (`fd_random`), so numbers compare with each other only: this is not FID. Run on an idle machine of two cores or
more: python THIS_FILE --data ../shared/data/emoji_noto --out FOLDER --minutes 8.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm_core import load
from ldm_core.catalog import Catalog
from ldm_core.data import images
from ldm_core.data.collate import to_images
from ldm_core.model.parts import make_dataset
from ldm_core.training.feed.examples import Examples
from ldm_core.training.first_stage.frechet import RandomFeatures, frechet_distance

BATCH = 32
COMMON = [
    "image_size=64", "conditioners=[]", "schedule=vp_cosine", "parameterization=v", "trainer.lr=6e-4",
    "trainer.warmup_steps=50", "trainer.ema=0.998", "trainer.precision=bf16", "trainer.clip=1.0",
    f"trainer.images_per_step={BATCH}", "trainer.log_every=10", "trainer.checkpoint_every=100000", "guidance=none",
    "sampler=ddim",
]  # fmt: skip
UNET = "use: unet, channels: 48, res_blocks: 2, heads: 4, norm_groups: 8"
PIXELS = f"{{{UNET}, channel_mult: [1, 1, 2, 2], attention: [8]}}"
LATENTS = f"{{{UNET}, channel_mult: [1, 2, 2], attention: [2, 4]}}"


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    """One run as a process of its own, on one thread."""
    command = [sys.executable, "-m", "ldm_core.cli", "train", *arguments, "--out", str(out), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its JSON; ends with its message where it failed."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err[-2000:])
    document: dict[str, Any] = json.loads(out)
    return document


def rate(out: Path) -> float:
    """Steps a second of a run's later lines."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    speeds = [r["images_per_second"] for r in rows if r["stage"] == "denoiser" and r["step"] > 10]
    return float(np.median(speeds)) / BATCH


def main() -> None:
    """Train, sample and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--stage-steps", type=int, default=1500, help="of the first stage's training")
    options = parser.parse_args()
    data, out = ["--data", options.data, *COMMON], options.out
    stage = out / "stage"
    begun = time.perf_counter()
    if not (stage / "first_stage.safetensors").exists():
        few = [f"first_stage_trainer.steps={options.stage_steps}", "trainer.steps=1"]
        finish(start([*data, "first_stage=vq_f4", "scale=small", f"denoiser={LATENTS}", *few], stage))
        print(f"first stage: {time.perf_counter() - begun:.0f} s", flush=True)
    kinds = {
        "LDM-1": [*data, "first_stage=identity", f"denoiser={PIXELS}"],
        "LDM-4": [*data, "--first-stage", str(stage), f"denoiser={LATENTS}"],
    }
    short = {n: start([*a, "trainer.steps=60"], out / f"{n}-speed") for n, a in kinds.items()}
    for process in short.values():
        finish(process)
    counts = {n: max(1, round(options.minutes * 60 * rate(out / f"{n}-speed"))) for n in kinds}
    runs = {n: start([*a, f"trainer.steps={counts[n]}"], out / n) for n, a in kinds.items()}
    documents = {n: finish(p) for n, p in runs.items()}
    features = RandomFeatures()
    for name in kinds:
        pipeline = load(str(out / name))
        recipe = pipeline.recipe
        if name == "LDM-1":
            real = Examples(make_dataset(recipe, Catalog.discover()), recipe.image_size, recipe.data, ["image"])
            truth = torch.cat([features(to_images(real[i]["image"][None])) for i in range(len(real))])
            half = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
            floor = frechet_distance(truth[half[: len(half) // 2]], truth[half[len(half) // 2 :]])
            print(f"real against real, two halves: {floor:.4f}")
        made = pipeline.sample(images=options.samples, steps=options.steps, seed=1, batch=64)
        pictures = np.stack([s.image for s in made])
        found = torch.cat([features(to_images(pictures[i : i + 64])) for i in range(0, len(pictures), 64)])
        (out / f"{name}.png").write_bytes(images.png_bytes(images.grid(list(pictures[:32]), columns=8, cell=96)))
        count = sum(p.numel() for p in pipeline.model.parameters())
        print(f"{name}: {count / 1e6:.2f} M parameters, {counts[name]} steps of {BATCH} in "
              f"{documents[name]['seconds']['denoiser']:.0f} s, FD {frechet_distance(truth, found):.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
