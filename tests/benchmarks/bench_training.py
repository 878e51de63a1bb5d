"""Training steps a second of this trainer and of a plain loop around diffusers' U-Net of the same shape.

Both see the same latents and contexts, AdamW at the same rate, no average of weights. Rounds alternate, the median of
each counts, and only ratios within one run mean anything. Run it on an idle machine: python THIS_FILE [--rounds 7].
Wanted: ours in fp32 at least 1.0 of theirs in fp32; ours in bf16 at least 1.5 on a CPU with bf16 instructions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from idleness import Others
from torch import Tensor, nn

from ldm_core.builtin.diffusion.config import EpsConfig, SimpleConfig, VPConfig
from ldm_core.builtin.diffusion.objectives import SimpleObjective
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.values import Precision
from ldm_core.model.diffusion import Model
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.denoiser.task import DiffusionLoss
from ldm_core.training.engine import world as worlds
from ldm_core.training.engine.part import Part

SIZES: dict[str, dict[str, int]] = {
    "small": {"channels": 64, "cells": 16, "batch": 16, "tokens": 16, "context": 128, "steps": 4},
    "medium": {"channels": 128, "cells": 16, "batch": 8, "tokens": 32, "context": 256, "steps": 2},
}
_LATENT = 4
Step = Callable[[Tensor, Tensor, int], Any]
"""One optimizer step on latents and tokens; the number seeds its noise."""


class Given(nn.Module):
    """A conditioner without weights: the batch holds its tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spec, self.reads = CondSpec(crossattn=width), ("tokens",)

    def encode(self, batch: Any) -> Cond:
        """The batch's tokens (B, L, D)."""
        return Cond(crossattn=batch["tokens"])

    def null(self, like: Cond) -> Cond:
        """Zeros."""
        return like.map(torch.zeros_like)


class _Recipe:
    """What the loss module reads of a recipe."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.trainer, self.conditioners, self.seed = settings, (), 0


def ours(size: dict[str, int], precision: Precision, compiled: bool) -> tuple[Step, int]:
    """A step of this trainer's real parts (engine, loss module, streams) and its number of parameters."""
    here = worlds.start()
    config = UNetConfig(
        channels=size["channels"], channel_mult=(1, 2), res_blocks=2, attention=(1, 2), heads=8, norm_groups=32
    )
    latent = LatentSpec(channels=_LATENT, stride=(1, 1))
    site = Site(size=(size["cells"],) * 2, latent=latent, cond=CondSpec(crossattn=size["context"]))
    torch.manual_seed(0)
    parts = (UNet(config, site), VPSchedule(VPConfig()), EpsParameterization(EpsConfig()))
    model = Model(*parts, {"given": Given(size["context"])})
    model.precision = precision
    settings = TrainerSettings(images_per_step=size["batch"], precision=precision, ema=0.0, compile=compiled)
    loss = DiffusionLoss(model, SimpleObjective(SimpleConfig()), _Recipe(settings))  # type: ignore[arg-type]
    loss.train()
    part = Part("model", loss, settings, here, "trainer")

    def step(x0: Tensor, tokens: Tensor, number: int) -> None:
        out = part.engine(x0, {"tokens": tokens}, [number * 1000 + i for i in range(len(x0))])
        part.backward(out.value.mean())
        part.step()

    return step, sum(p.numel() for p in model.parameters())  # the conditioner has none


def theirs(size: dict[str, int], precision: Precision, compiled: bool) -> tuple[Step, int]:
    """A step of a plain loop, as diffusers' training scripts have it, and the number of parameters."""
    with importable():  # diffusers does without torchvision, but not with a broken one
        from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    width = size["channels"]
    net = UNet2DConditionModel(
        sample_size=size["cells"],
        in_channels=_LATENT,
        out_channels=_LATENT,
        block_out_channels=(width, 2 * width),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=size["context"],
        attention_head_dim=8,  # diffusers' name for the number of heads
    ).to(worlds.start().device)
    count = sum(p.numel() for p in net.parameters())
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    run: Any = torch.compile(net) if compiled else net
    net.train()

    def step(x0: Tensor, tokens: Tensor, number: int) -> None:
        noise = torch.randn_like(x0)
        times = torch.randint(0, 1000, (len(x0),), device=x0.device)
        noisy = scheduler.add_noise(x0, noise, times)
        with torch.autocast(x0.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            found = run(noisy, times, encoder_hidden_states=tokens).sample
        loss = nn.functional.mse_loss(found.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, count


def measure(
    steppers: dict[str, Any], size: dict[str, int], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds a step of each, in alternating rounds after one that does not count."""
    device = worlds.start().device
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn((size["batch"], _LATENT, size["cells"], size["cells"]), generator=generator).to(device)
    tokens = torch.randn((size["batch"], size["tokens"], size["context"]), generator=generator).to(device)
    taken: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(rounds + 1):
        for name, step in steppers.items():
            begun = clock()
            for i in range(size["steps"]):
                step(x0, tokens, number * size["steps"] + i)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                taken[name].append((clock() - begun) / size["steps"])
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Print seconds a step and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--compile", action="store_true", help="compile both (needs a C++ compiler on a CPU)")
    parser.add_argument("--cpu-time", action="store_true", help="the process's own time, for a busy machine")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    others = Others()
    for name in SIZES if options.size == "all" else [options.size]:
        size = SIZES[name]
        makers = {
            "diffusers fp32": theirs(size, "fp32", options.compile),
            "ldm-core fp32": ours(size, "fp32", options.compile),
            "diffusers bf16": theirs(size, "bf16", options.compile),
            "ldm-core bf16": ours(size, "bf16", options.compile),
        }
        counts = {n: c for n, (_, c) in makers.items()}
        seconds = measure({n: s for n, (s, _) in makers.items()}, size, options.rounds, clock)
        base = seconds["diffusers fp32"]
        print(f"{name}: batch {size['batch']} of {_LATENT}x{size['cells']}x{size['cells']}, "
              f"{torch.get_num_threads()} threads")  # fmt: skip
        for n, value in seconds.items():
            print(f"  {n:<16} {counts[n] / 1e6:6.2f} M  {value * 1e3:8.1f} ms/step  {base / value:5.2f} x", flush=True)
    print(others.line())


if __name__ == "__main__":
    main()
