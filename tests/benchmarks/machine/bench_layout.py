"""Layouts of pictures in the training of a first stage on a CPU: rows of a channel, or channels of a pixel.

A step's forward and backward passes of autoencoders drawn at random, in turns, processor time; the least of the rounds.
python THIS_FILE [--rounds 5]. Measured 2026-11-30, torch 2.13, one thread of an AMD EPYC, busy, channels first : last:
bf16 0.145 : 0.159, 0.336 : 0.355, 0.655 : 0.678 and 0.74 : 0.84 s; fp32 0.252 : 0.226, 0.604 : 0.579, 1.09 : 0.96 and
1.42 : 1.79 s. In bf16 the backward pass of group normalisation takes eight times as long channels last.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ldm_plugin_kl_ae.config import KLAEConfig
from ldm_plugin_kl_ae.model import KLFirstStage

from ldm_core.contracts import Site

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from idleness import Others

STAGES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("16 channels, 32 of 32 px", 32, 32, {"channels": 16, "channel_mult": (1, 2, 4), "norm_groups": 4}),
    ("48, patch 2, 16 of 64 px", 16, 64, {"channels": 48, "channel_mult": (1, 2), "norm_groups": 8, "patch": 2}),
    ("24, 16 of 64 px", 16, 64, {"channels": 24, "channel_mult": (1, 2, 4), "norm_groups": 8}),
    ("128, 1 of 64 px", 1, 64, {"channels": 128, "channel_mult": (1, 2, 4)}),
)
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def step(stage: KLFirstStage, images: torch.Tensor, bf16: bool) -> float:
    """Processor seconds of one forward and backward pass."""
    begun = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        made = stage.reconstruct(images)
        loss = (made.image - images).abs().mean()
    loss.backward()
    return time.process_time() - begun


def main() -> None:
    """Print a line for each stage and arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    others = Others()
    for name, count, side, settings in STAGES:
        config = KLAEConfig(res_blocks=1, mid_attention=False, z_channels=4, **settings)
        stage = KLFirstStage(config, Site(size=(side, side), channels=3)).train()
        images = torch.rand(count, 3, side, side) * 2 - 1
        for bf16 in (False, True):
            least = dict.fromkeys(LAYOUTS, float("inf"))
            for _ in range(rounds + 1):  # the first warms up, and counts as any
                for layout, form in LAYOUTS.items():
                    least[layout] = min(least[layout], step(stage, images.contiguous(memory_format=form), bf16))
            told = ", ".join(f"{layout} {seconds:.3f} s" for layout, seconds in least.items())
            print(f"{name}, {'bf16' if bf16 else 'fp32'}: {told}")
    print(others.line())


if __name__ == "__main__":
    main()
