"""The effect of a perceptual loss: a small KL first stage of factor 4, trained without and with it for equal CPU time.

Both train on pictures of 64 pixels by L1 and the KL term, without a discriminator; one of them adds `features` on a
trained timm network. A few steps say what a step of each costs, then both get the steps that fit into --minutes of the
process's own time on one thread. The pair of a seed runs side by side, so that a busy machine slows both alike.
Measured: PSNR and SSIM of held-out pictures, and Fréchet distances between them and their reconstructions by a layer of
that network that the loss does not see, by untrained networks and by every --judge. The floor is the distance of two
halves of the real pictures (a half has more noise of its own than the whole). It is not FID: numbers compare within one
table only.

    python THIS_FILE --data ../shared/data/emoji_noto --weights tf_efficientnet_lite0.safetensors --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm_plugin_adversarial.perceptual.config import FeaturesConfig
from ldm_plugin_adversarial.perceptual.features import FeatureNetwork
from torch import Tensor

from ldm_core import hookimpl
from ldm_core.catalog import Catalog
from ldm_core.data import images
from ldm_core.data.collate import to_images
from ldm_core.model import fill, trained
from ldm_core.model.parts import data_info, held_out_data, make_dataset
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.run import reconstruct
from ldm_core.training import workflow
from ldm_core.training.feed.examples import Examples
from ldm_core.training.first_stage.frechet import RandomFeatures, frechet_distance
from ldm_core.training.first_stage.metrics import psnr, ssim

BATCH = 8
TRIAL = 24
"""Steps of the runs that say what a step costs; the first third does not count."""
STAGE = {"use": "kl_ae", "channels": 16, "channel_mult": [1, 2, 4], "res_blocks": 1, "z_channels": 4, "norm_groups": 8}
TRAINER = {
    "images_per_step": BATCH, "lr": 2e-3, "schedule": "cosine", "warmup_steps": 30, "betas": [0.9, 0.99], "clip": 1.0,
    "precision": "bf16", "log_every": 10, "checkpoint_every": 10**6, "statistics_images": 256,
}  # fmt: skip
NETWORK, SEEN, UNSEEN = "tf_efficientnet_lite0", ("blocks.0", "blocks.1", "blocks.2", "blocks.4"), "blocks.6"
UNTRAINED = "regnety_002"
ARMS = ("without", "with")
SHOWN = 10


class Clock:
    """An observer that keeps the process's own time at every step of the first stage."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @hookimpl
    def ldm_stage_start(self, stage: str, steps: int, start: int) -> None:
        """Begin with the time of the start."""
        if stage == "first_stage":
            self.times.append(time.process_time())

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        """One more."""
        if stage == "first_stage":
            self.times.append(time.process_time())


def recipe_of(data: Path, arm: str, weights: str, seed: int, steps: int, weight: float) -> dict[str, Any]:
    """The plain recipe of a run: the arms differ by the perceptual distance alone."""
    perceptual: dict[str, Any] = {"use": "none"}
    if arm == "with":
        perceptual = {"use": "features", "network": NETWORK, "weights": weights, "layers": list(SEEN)}
    return {
        "image_size": 64,
        "seed": seed,
        "conditioners": [],
        "dataset": {"use": "tar", "url": str(data)},
        "first_stage": STAGE,
        "first_stage_trainer": {**TRAINER, "steps": steps},
        "stage_objective": {
            "use": "adversarial",
            "adversarial": False,
            "perceptual": perceptual,
            "perceptual_weight": weight,
        },
        "trainer": {"steps": 1},
    }


def train_one(options: argparse.Namespace) -> None:
    """One run in this process; its steps' times lie beside its files."""
    torch.set_num_threads(1)
    catalog, clock = Catalog.discover(), Clock()
    plain = recipe_of(options.data, options.arm, options.weights, options.seed, options.steps, options.weight)
    recipe, info = workflow.prepare(plain, catalog)
    catalog.manager.register(clock)
    workflow.run(recipe, info, catalog, str(options.out), stages=("first_stage",))
    (options.out / "times.json").write_text(json.dumps(clock.times))


def start(options: argparse.Namespace, arm: str, seed: int, steps: int, out: Path) -> subprocess.Popen[str]:
    """A run as a process of its own, on one thread."""
    given = {"data": options.data, "weights": options.weights, "weight": options.weight, "arm": arm, "seed": seed}
    command = [sys.executable, __file__, *(f"--{k}={v}" for k, v in {**given, "steps": steps, "out": out}.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait; end with its message where it failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(said[-3000:])


def seconds(out: Path) -> float:
    """The process's own time of a run's steps."""
    times = json.loads((out / "times.json").read_text())
    return float(times[-1] - times[0])


def train(options: argparse.Namespace) -> dict[str, int]:
    """All runs that are not there yet; the steps of each arm."""
    counts: dict[str, int] = {}
    trials = {arm: options.out / f"{arm}-trial" for arm in ARMS}
    todo = [arm for arm in ARMS if not (trials[arm] / "times.json").exists()]
    for process in [start(options, arm, 0, TRIAL, trials[arm]) for arm in todo]:
        finish(process)
    for arm in ARMS:
        times = json.loads((trials[arm] / "times.json").read_text())
        cost = (times[-1] - times[TRIAL // 3]) / (TRIAL - TRIAL // 3)
        counts[arm] = round(options.minutes * 60 / cost)
        print(f"{arm}: {cost:.3f} s a step, {counts[arm]} steps", flush=True)
    for seed in range(options.seeds):
        runs = [(arm, options.out / f"{arm}-{seed}") for arm in ARMS]
        missing = [(arm, out) for arm, out in runs if not (out / "times.json").exists()]
        for process in [start(options, arm, seed, counts[arm], out) for arm, out in missing]:
            finish(process)
        print(f"seed {seed}: {', '.join(f'{a} {seconds(o):.0f} s' for a, o in runs)}", flush=True)
    return counts


class Judges:
    """Features of pictures by networks at hand, and the distances of two sets of pictures by each."""

    def __init__(self, options: argparse.Namespace) -> None:
        plain = FeaturesConfig(network=NETWORK, weights=options.weights, layers=(UNSEEN,))
        self.of: dict[str, Callable[[Tensor], Tensor]] = {f"{NETWORK} {UNSEEN}": pooled(FeatureNetwork(plain))}
        for judge in options.judge:
            name, _, file = judge.partition("=")
            self.of[f"{name} {UNSEEN}"] = pooled(
                FeatureNetwork(FeaturesConfig(network=name, weights=file, layers=(UNSEEN,)))
            )
        self.of[f"{UNTRAINED}, random"] = untrained()
        self.of["fd_random"] = RandomFeatures()

    @torch.no_grad()
    def features(self, pictures: np.ndarray) -> dict[str, Tensor]:
        """Features (N, D) of uint8 pictures (N, 3, H, W) by each network."""
        blocks = [to_images(pictures[i : i + 64]) for i in range(0, len(pictures), 64)]
        return {name: torch.cat([network(x) for x in blocks]) for name, network in self.of.items()}


def pooled(network: FeatureNetwork) -> Callable[[Tensor], Tensor]:
    """The means of a network's one map over positions."""
    return lambda x: network(x)[0].float().mean((2, 3))


def untrained() -> Callable[[Tensor], Tensor]:
    """A timm network with random weights from a seed: the means of the maps of its stages but the last."""
    with importable():
        import timm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(UNTRAINED, pretrained=False, features_only=True).eval().requires_grad_(False)
    return lambda x: torch.cat([m.mean((2, 3)) for m in network(x)[:-1]], dim=1)


def distances(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """The Fréchet distance of two sets by each network."""
    return {name: frechet_distance(a[name], b[name]) for name in a}


def floors(real: Mapping[str, Tensor], splits: int = 5) -> dict[str, float]:
    """The mean distance of two halves of real pictures, over some random splits."""
    found: dict[str, list[float]] = {name: [] for name in real}
    for split in range(splits):
        count = len(next(iter(real.values())))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(split))
        halves = order[: count // 2], order[count // 2 :]
        for name, values in real.items():
            found[name].append(frechet_distance(values[halves[0]], values[halves[1]]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def pictures_of(data: Path) -> np.ndarray:
    """The held-out pictures, uint8 (N, 3, 64, 64)."""
    catalog = Catalog.discover()
    recipe = resolve(recipe_of(data, "without", "", 0, 1, 0.0), catalog)
    held_out = held_out_data(recipe, catalog, data_info(make_dataset(recipe, catalog)))
    examples = Examples(held_out, recipe.image_size, recipe.data, ["image"])
    return np.stack([examples[i]["image"] for i in range(len(examples))])


def rebuilt(out: Path, pictures: np.ndarray) -> np.ndarray:
    """Pictures through a run's first stage and back."""
    file, catalog = str(out / "first_stage.safetensors"), Catalog.discover()
    stage = trained.load_stage(resolve({"first_stage": file}, catalog), catalog, file, fill.device_named("cpu"))
    return reconstruct(stage, pictures, torch.device("cpu"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The numbers of every run, and a picture of the first seed's reconstructions."""
    held_out, judges = pictures_of(options.data), Judges(options)
    real = judges.features(held_out)
    table: dict[str, Any] = {"floor": floors(real)}
    shown = [held_out]
    for arm in ARMS:
        for seed in range(options.seeds):
            out = options.out / f"{arm}-{seed}"
            made = rebuilt(out, held_out)
            x, y = torch.from_numpy(held_out), torch.from_numpy(made)
            table[f"{arm} {seed}"] = {
                "seconds": seconds(out),
                "psnr": float(psnr(x, y).clamp(max=100).mean()),
                "ssim": float(ssim(x, y).mean()),
                "fd": distances(real, judges.features(made)),
            }
            shown += [made] if seed == 0 else []
    places = [i * len(held_out) // SHOWN for i in range(SHOWN)]
    sheet = images.grid([rows[i] for rows in shown for i in places], columns=SHOWN, cell=96)
    (options.out / "perceptual.png").write_bytes(images.png_bytes(sheet))
    (options.out / "perceptual.json").write_text(json.dumps(table, indent=1))
    return table


def lines(table: Mapping[str, Any], seeds: int) -> Iterable[str]:
    """Rows of numbers: mean and range over the seeds for each arm, beside the floor."""
    rows: list[tuple[str, Sequence[str], float | None]] = [("PSNR, dB", ["psnr"], None), ("SSIM", ["ssim"], None)]
    rows += [(f"FD {name}", ["fd", name], floor) for name, floor in table["floor"].items()]
    for title, keys, floor in rows:
        cells = []
        for arm in ARMS:
            values: list[Any] = [table[f"{arm} {seed}"] for seed in range(seeds)]
            for key in keys:
                values = [value[key] for value in values]
            cells.append(f"{np.mean(values):9.4g} ({min(values):.4g} to {max(values):.4g})")
        yield f"{title:<36} {'' if floor is None else f'floor {floor:.4g}':<14} " + "   ".join(cells)


def main() -> None:
    """Train, measure and print; runs that are there already are only measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tars with splits train and val")
    parser.add_argument("--weights", required=True, help=f"path of trained weights of {NETWORK}")
    parser.add_argument(
        "--judge", action="append", default=[], help="NETWORK=FILE: another trained one with that layer"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.0, help="the process's own time of a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--weight", type=float, default=0.25, help="of the perceptual distance; both terms are then about as large"
    )
    parser.add_argument("--arm", choices=ARMS, help="one run alone, in this process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    if options.arm:
        train_one(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)
    print("\n".join(lines(measure(options), options.seeds)))


if __name__ == "__main__":
    main()
