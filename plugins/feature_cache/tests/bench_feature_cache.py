"""The time of sampling with caches of features, on a trained run: each beside sampling without one, in turns.

A row says how much faster a whole call is, by the clock and by processor time (medians of the pairs), and how far the
latents are from those without the cache, relative to their size.
Distances and accuracy come from ``ldm-run evaluate`` with the same settings. Run it on an idle machine:
python THIS_FILE RUN [--inputs '{"class_label": 1}'] [--steps 25] [--images 16] [--rounds 5].
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np
import torch

import ldm_core
from ldm_core.sampling.pipeline import Pipeline

CACHES: tuple[dict[str, object], ...] = (
    {"use": "deep_cache", "interval": 2},
    {"use": "deep_cache", "interval": 3},
    {"use": "deep_cache", "interval": 3, "schedule": "quadratic"},
    {"use": "deep_cache", "interval": 3, "branch": 1},
    {"use": "deep_cache", "interval": 5},
    {"use": "first_block_cache", "threshold": 0.1},
    {"use": "first_block_cache", "threshold": 0.3},
)


def timed(pipeline: Pipeline, options: argparse.Namespace) -> tuple[tuple[float, float], np.ndarray]:
    """Seconds by the clock and of the processor of one call, and its latents."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = pipeline.sample(inputs=options.inputs, images=options.images, steps=options.steps, seed=1)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    return taken, np.stack([np.asarray(each.latents) for each in made])


def main() -> None:
    """Print a row a cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--inputs", type=json.loads, default={"class_label": 1})
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--caches", type=json.loads, default=CACHES, help="a list of settings, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = ldm_core.load(options.run)
    timed(pipeline, options)
    for cache in options.caches:
        cached = pipeline.with_settings({"adapters": {"cache": cache}})
        pairs = [(timed(pipeline, options), timed(cached, options)) for _ in range(options.rounds)]
        (_, bare), (_, found) = pairs[0]
        clock, cpu = (statistics.median(a[i] / b[i] for (a, _), (b, _) in pairs) for i in range(2))
        away = float(np.abs(found - bare).mean() / np.abs(bare).mean())
        print(
            f"  {json.dumps(cache):<68} {clock:5.2f} x  {cpu:5.2f} x of processor time  latents {away:.1%}", flush=True
        )
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
