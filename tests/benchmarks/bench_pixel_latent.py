"""Training images a second of pixel diffusion (LDM-1) and latent diffusion (LDM-4) at equal parameters, 256 x 256.

Both U-Nets are the paper's of its trade-off study (arXiv 2112.10752, table 14), at a smaller base width: multipliers
(1, 1, 2, 2, 4, 4) on pixels and (1, 2, 3, 5) on cached 64 x 64 latents, attention at 32, 16 and 8 cells a side. The
steps are those of this trainer: engine, objective, streams. Rounds alternate. Run on an idle machine: python THIS_FILE.
Wanted: 2.7 or more, as in the paper.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from idleness import Others

from ldm_core.builtin.diffusion.config import EpsConfig, SimpleConfig, VPConfig
from ldm_core.builtin.diffusion.objectives import SimpleObjective
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import LatentSpec, Site
from ldm_core.contracts.values import Precision
from ldm_core.model.diffusion import Model
from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.denoiser.task import DiffusionLoss
from ldm_core.training.engine import world as worlds
from ldm_core.training.engine.part import Part

SHAPES: dict[str, dict[str, Any]] = {
    "LDM-1": {"stride": 1, "channel_mult": (1, 1, 2, 2, 4, 4), "attention": (32, 16, 8)},
    "LDM-4": {"stride": 4, "channel_mult": (1, 2, 3, 5), "attention": (8, 4, 2)},
}
PIXELS = 256


class _Recipe:
    """What the loss module reads of a recipe."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.trainer, self.conditioners, self.seed = settings, (), 0


def part_of(name: str, channels: int, batch: int, precision: Precision) -> tuple[Part, int]:
    """The engine of one of the two, and its parameters."""
    shape = dict(SHAPES[name])
    stride = shape.pop("stride")
    config = UNetConfig(channels=channels, res_blocks=2, heads=1, **shape)
    site = Site(size=(PIXELS, PIXELS), latent=LatentSpec(channels=3, stride=(stride, stride)))
    torch.manual_seed(0)
    model = Model(UNet(config, site), VPSchedule(VPConfig()), EpsParameterization(EpsConfig()))
    model.precision = precision
    settings = TrainerSettings(images_per_step=batch, precision=precision, ema=0.0)
    loss = DiffusionLoss(model, SimpleObjective(SimpleConfig()), _Recipe(settings))  # type: ignore[arg-type]
    loss.train()
    part = Part("model", loss, settings, worlds.start(), "trainer")
    return part, sum(p.numel() for p in model.parameters())


def main() -> None:
    """Print images a second and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    device, others = worlds.start().device, Others()
    parts = {n: part_of(n, options.channels, options.batch, options.precision) for n in SHAPES}
    taken: dict[str, list[float]] = {n: [] for n in SHAPES}
    for number in range(options.rounds + 1):
        for name, (part, _) in parts.items():
            side = PIXELS // SHAPES[name]["stride"]
            x0 = torch.randn((options.batch, 3, side, side), device=device)
            begun = time.perf_counter()
            out = part.engine(x0, {}, list(range(number * options.batch, (number + 1) * options.batch)))
            part.backward(out.value.mean())
            part.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                taken[name].append(time.perf_counter() - begun)
    rate = {n: options.batch / statistics.median(v) for n, v in taken.items()}
    for name, (_, count) in parts.items():
        print(f"{name}: {count / 1e6:.2f} M parameters, {rate[name]:.3f} images/s ({options.precision})")
    print(f"LDM-4 trains {rate['LDM-4'] / rate['LDM-1']:.2f} times as many images a second; {others.line()}")


if __name__ == "__main__":
    main()
